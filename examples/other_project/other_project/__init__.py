"""What this project adds: data, a layer and an initialisation, named by `_target_` and `scheme` in conf/."""
