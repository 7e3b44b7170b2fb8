"""One file each: from a program of torch.export to a file of a format."""
