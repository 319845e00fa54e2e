//! What a model is trained on: documents, made here or read from files.
