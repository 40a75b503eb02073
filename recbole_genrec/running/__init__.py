"""What a run is apart from its model: its folder, states of training, signals, reasons of failure, processes."""
