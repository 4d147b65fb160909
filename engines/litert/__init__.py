"""LiteRT, the runtime of TensorFlow Lite: .tflite files as they are, on its own integer kernels."""
