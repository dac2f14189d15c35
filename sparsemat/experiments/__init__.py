"""What the training chapters share: data sets, networks, training, records, the command line."""
