"""What training arguments are made of: names of earlier releases, their places, their ``set_*`` helpers."""
