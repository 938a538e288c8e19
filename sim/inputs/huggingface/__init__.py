"""Model cards from the `config.json` of a Hugging Face repository.

`file` finds and reads what lies in a directory; `attention`, `states`, `ffn` and `layers` say what
stands in each layer, `formats` which part a checkpoint stores in which format; `text` writes the
card that `card` puts together.
"""
