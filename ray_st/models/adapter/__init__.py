"""Adapters: small trained parts beside an encoder's frozen weights (package peft, an extra).

``peft_folder`` reads and writes an adapter's folder, ``peft_layers`` puts its layers into an encoder and
takes them out, ``adaptable`` has the methods that a model offers. They import modules of this package's
parent and, at first use, peft.
"""
