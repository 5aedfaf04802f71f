"""Running a model: sessions, custom code of users, what ONNX Runtime computes and how it rounds."""
