"""From ONNX to ONNX: pure functions that compose, fold, quantise and halve graphs, and run them for reference."""
