//! CLIP text encoder and tokenizer, equal to transformers.
