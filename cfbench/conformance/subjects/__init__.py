"""What checks examine: a plugin of each kind with what its checks share, and the toy data that it is run on."""
