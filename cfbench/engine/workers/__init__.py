"""Where tasks run: in processes of their own for plugins, in Ray's workers, on the nodes of a cluster."""
