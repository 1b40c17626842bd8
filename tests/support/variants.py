"""Small networks with the paper's variants."""

SMALL = {"backbone": "vgg11", "num_classes": 3, "width": 1 / 32, "native_size": 64}


VARIANTS = {
    "32s": {"stride": 32},
    "16s": {"stride": 16},
    "8s": {"stride": 8},
    "8s-atonce": {"stride": 8, "skip_scale": 0.01},
    "8s-max": {"stride": 8, "fuse": "max"},
    "pool4-only": {"stride": 16, "levels": "finest"},
    "pool3-only": {"stride": 8, "levels": "finest"},
    "8s-learn-intermediate": {"stride": 8, "upsample": "learn-intermediate"},
    "8s-learn-all": {"stride": 8, "upsample": "learn-all"},
    "pool5-dilated": {"stride": 16, "last_pool": "dilated"},
    "pool5-enlarged": {"stride": 16, "last_pool": "enlarged"},
    "8s-pool5-dilated": {"stride": 8, "last_pool": "dilated"},
    "rgbd-early": {"stride": 32, "channels": 4},
    "late-average": {"stride": 32, "late_fusion": "average"},
    "late-sum-16s": {"stride": 16, "late_fusion": "sum"},
    "two-heads-8s": {"stride": 8, "geometric_classes": 2},
    "two-heads-late": {"stride": 16, "late_fusion": "average", "geometric_classes": 2},
}
