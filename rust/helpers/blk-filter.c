// SPDX-License-Identifier: GPL-2.0

#include <linux/blk-filter.h>

__rust_helper enum bdev_filter_verdict
rust_helper_bdev_filter_end(struct bio *bio, blk_status_t status)
{
	return bdev_filter_end(bio, status);
}

__rust_helper sector_t
rust_helper_bdev_filter_sector(const struct bdev_filter *flt,
			       const struct bio *bio)
{
	return bdev_filter_sector(flt, bio);
}

__rust_helper bool rust_helper_bdev_filter_protected(const struct bdev_filter *flt,
						     struct bio *bio)
{
	return bdev_filter_protected(flt, bio);
}

__rust_helper bool rust_helper_bdev_filter_may_copy(struct bio *bio,
						    struct bvec_iter iter)
{
	return bdev_filter_may_copy(bio, iter);
}

__rust_helper bool rust_helper_bdev_filter_has_data(const struct bdev_filter *flt,
						    struct bio *bio)
{
	return bdev_filter_has_data(flt, bio);
}
