"""GGUF, the files of llama.cpp and Ollama: config, weights, tokenizer and chat template in one."""
