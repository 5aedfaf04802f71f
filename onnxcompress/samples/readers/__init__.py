"""One file for each kind of data; `onnxcompress.samples.find` knows which reads what."""
