"""Problems read from files and data sets of the hub."""
