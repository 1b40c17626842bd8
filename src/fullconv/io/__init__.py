"""Files: images, label images, rasters, videos, MATLAB files, YAML; read with limits, written atomically."""
