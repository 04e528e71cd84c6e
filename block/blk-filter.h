/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _BLK_FILTER_H
#define _BLK_FILTER_H 1

#include <linux/blk-filter.h>
#include <linux/jump_label.h>
#include <linux/module.h>

#ifdef CONFIG_BLK_FILTER
DECLARE_STATIC_KEY_FALSE(blk_filter_key);

extern struct device_attribute dev_attr_filter;
extern struct device_attribute dev_attr_filter_stat;

bool __blk_filter_bio(struct block_device *bdev, struct bio *bio);
void blk_filter_add_partition(struct block_device *part);
void blk_filter_remove(struct block_device *bdev);
void blk_filter_evict(struct block_device *bdev);
void __blk_filter_resized(struct block_device *bdev);

/* Not one whose init function may yet fail, or that is being unloaded. */
static inline bool
bdev_filter_owner_is_live(const struct bdev_filter_operations *ops)
{
#ifdef CONFIG_MODULES
	return !ops->owner || READ_ONCE(ops->owner->state) == MODULE_STATE_LIVE;
#else
	return true;
#endif
}

int __bdev_filter_detach(struct bdev_filter *flt, bool killable);
void blk_filter_detach_module(struct module *module);

/*
 * Whether sleeping is wrong here, where that can be told.  The other way round than
 * bio_in_atomic(), which says yes if it can't.
 */
static inline bool blk_filter_atomic(void)
{
	return rcu_preempt_depth() || in_interrupt() ||
		(IS_ENABLED(CONFIG_PREEMPT_COUNT) && !preemptible());
}

int blk_filter_create_hooks(struct bdev_filter *flt);
void blk_filter_destroy_hooks(struct bdev_filter *flt);

enum bdev_filter_verdict blk_filter_call(struct block_device *bdev,
					 struct bio *bio);
bool blk_filter_retarget(struct bio *bio);
bool blk_filter_too_far(const struct bio *bio);

/*
 * Shows a bio to the filters of its device.  Returns %true if the bio is no
 * longer the submitter's: a filter took it or it has been ended.
 */
static inline bool blk_filter_bio(struct bio *bio)
{
	return static_branch_unlikely(&blk_filter_key) &&
		bdev_test_flag(bio->bi_bdev, BD_FILTERED) &&
		!bio_flagged(bio, BIO_FILTERED) &&
		__blk_filter_bio(bio->bi_bdev, bio);
}

/*
 * The owner of a completed bio may submit it again: that is a new I/O.  Not under
 * the key: the last filter may have gone while the bio was on its way.
 */
static inline void blk_filter_done_bio(struct bio *bio)
{
	bio_clear_flag(bio, BIO_FILTERED);
}

/* @bio goes to the device where the filters have seen @bio_src. */
static inline void blk_filter_clone_bio(struct bio *bio, struct bio *bio_src)
{
	if (static_branch_unlikely(&blk_filter_key) &&
	    bio_flagged(bio_src, BIO_FILTERED))
		bio_set_flag(bio, BIO_FILTERED);
}

/*
 * bio_endio() has told the queue that the bio is done and will be called again, when
 * the queue may be gone.
 */
static inline void blk_filter_qos_done(struct bio *bio)
{
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
}

static inline void blk_filter_resized(struct block_device *bdev)
{
	if (static_branch_unlikely(&blk_filter_key))
		__blk_filter_resized(bdev);
}
#else
static inline bool blk_filter_bio(struct bio *bio)
{
	return false;
}

static inline void blk_filter_done_bio(struct bio *bio)
{
}

static inline void blk_filter_clone_bio(struct bio *bio, struct bio *bio_src)
{
}

static inline void blk_filter_add_partition(struct block_device *part)
{
}

static inline void blk_filter_remove(struct block_device *bdev)
{
}

static inline void blk_filter_resized(struct block_device *bdev)
{
}
#endif /* CONFIG_BLK_FILTER */

#endif /* _BLK_FILTER_H */
