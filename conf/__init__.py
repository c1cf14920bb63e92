# In a wheel, Hydra reads pkg://stockformer.conf only from a package.
