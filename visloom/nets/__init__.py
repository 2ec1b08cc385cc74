"""Networks as plain `nn.Module`s: none of them knows of a config."""
