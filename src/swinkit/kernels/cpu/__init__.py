"""Whole blocks on the CPU: a C++ library without PyTorch in it (native/), and the Python that packs weights for it and calls it."""
