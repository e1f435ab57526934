"""From trained networks to files: clean ONNX, pools, students and teachers."""
