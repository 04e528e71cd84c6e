/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _BLK_FILTER_H
#define _BLK_FILTER_H 1

#include <linux/blk-filter.h>
#include <linux/jump_label.h>
#include <linux/mempool.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/workqueue.h>

#ifdef CONFIG_BLK_FILTER
DECLARE_STATIC_KEY_FALSE(blk_filter_key);

extern struct device_attribute dev_attr_filter;
extern struct device_attribute dev_attr_filter_stat;

enum bdev_filter_state {
	BDEV_FILTER_STATE_NEW,
	BDEV_FILTER_STATE_ATTACHED,
	BDEV_FILTER_STATE_DETACHED,
	BDEV_FILTER_STATE_REMOVED,
};

struct bdev_filter_pcpu {
	unsigned long seen;
	unsigned long taken;
};

/* Bios of one control group that a filter resubmitted, or that it deferred. */
struct bdev_filter_lane {
	struct bdev_filter_core *core;
	struct list_head entry;
	const void *group;
	unsigned int index;
	bool running;
	struct bio_list bios;
	unsigned int nr;
	unsigned int waiters;
	struct wait_queue_head wait;
	struct workqueue_struct *wq;
	struct work_struct work;
};

typedef enum bdev_filter_verdict bdev_filter_submit_t(struct bdev_filter *flt,
						      struct bio *bio);

/* What the block layer knows of a filter; see the top of blk-filter.c. */
struct bdev_filter_core {
	/* Looked at for each bio. */
	struct bdev_filter *flt;
	bdev_filter_submit_t *submit_bio;
	struct bdev_filter_pcpu __percpu *pcpu;
	struct bdev_filter_cache __percpu *hook_caches;
	mempool_t *hook_pool;
	refcount_t refs;

	/* Of a filter that takes bios. */
	atomic_t owned;
	spinlock_t lock;	/* see blk-filter.c */
	unsigned int queued;
	struct bdev_filter_lane process_lane;
	struct bio *processing;
	struct bio *processed;
	struct bio_list ended;
	struct bdev_filter_lane lane;
	struct list_head lanes;
	unsigned int nr_lanes;
	struct workqueue_struct *process_wq;
	struct workqueue_struct *lane_wq;
	struct wait_queue_head wait;

	/* Of one that arms them; see also hook_pool. */
	atomic_t targets;

	struct block_device __rcu *bdev;
	dev_t devt;
	struct file *file;
	struct module *owner;
	enum bdev_filter_state state;
	bool attached;
	bool dropped;
	bool going;
	bool leaving;
	bool left;
	bool cutting;
	bool cut;
	bool gated;
	refcount_t handles;
	struct completion released;
	struct work_struct cut_work;
	struct work_struct detach_work;
	struct work_struct release_work;
	struct list_head entry;
	struct rcu_head rcu;
};

bool __blk_filter_bio(struct block_device *bdev, struct bio *bio);
void blk_filter_add_partition(struct block_device *part);
void blk_filter_going(struct gendisk *disk);
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

void bdev_filter_put(struct bdev_filter_core *core);
void bdev_filter_put_core(struct bdev_filter_core *core);
void bdev_filter_start_detach(struct block_device *bdev,
			      struct bdev_filter_core *core);
int bdev_filter_wait_released(struct bdev_filter_core *core, bool killable);
void blk_filter_detach_module(struct module *module);

int blk_filter_create_hooks(struct bdev_filter_core *core);
void blk_filter_destroy_hooks(struct bdev_filter_core *core);
void blk_filter_drain_hooks(struct bdev_filter_cache __percpu *caches);
int blk_filter_in_use(struct bdev_filter_core *core);
bool blk_filter_segments_aligned(struct block_device *bdev, struct bio *bio);
void blk_filter_flush_processed(struct bdev_filter_core *core);
bool blk_filter_check_bio(struct bio *bio);

enum bdev_filter_verdict blk_filter_call(struct block_device *bdev,
					 struct bio *bio);
bool blk_filter_retarget(struct bio *bio);
bool blk_filter_hook_target(struct bdev_filter *flt, struct bio *bio,
			    struct bdev_filter_target *target, gfp_t gfp);
void blk_filter_close(struct file *file);
void blk_filter_close_targets(struct bdev_filter_core *core);

void blk_filter_hooked(struct bio *bio);
void __blk_filter_unhook(struct bio *bio);

/*
 * Mark that a method runs that must not sleep, for kernels whose preempt_disable()
 * and rcu_read_lock() leave no trace: nobody else runs on this CPU until the mark is
 * taken back.
 */
#ifndef CONFIG_PREEMPT_COUNT
DECLARE_PER_CPU(unsigned int, blk_filter_depth);
#endif

/* Whether this CPU is in the end_io function of an armed bio, or a task that it runs. */
DECLARE_PER_CPU(unsigned int, blk_filter_ending);

static inline void blk_filter_enter(void)
{
#ifndef CONFIG_PREEMPT_COUNT
	this_cpu_inc(blk_filter_depth);
#endif
}

static inline void blk_filter_leave(void)
{
#ifndef CONFIG_PREEMPT_COUNT
	this_cpu_dec(blk_filter_depth);
#endif
}

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

/* @bio goes to the device where the filters have seen @bio_src. */
static inline void blk_filter_clone_bio(struct bio *bio, struct bio *bio_src)
{
	if (static_branch_unlikely(&blk_filter_key) &&
	    bio_flagged(bio_src, BIO_FILTERED))
		bio_set_flag(bio, BIO_FILTERED);
}

/*
 * Called by bio_endio() when all is done for the device: the filters that armed the
 * bio see how it ended.  Each of them is there until then, and with it the key.
 */
static inline void blk_filter_unhook(struct bio *bio)
{
	if (static_branch_unlikely(&blk_filter_key) &&
	    bio->bi_end_io == blk_filter_hooked)
		__blk_filter_unhook(bio);
}

static inline void blk_filter_resized(struct block_device *bdev)
{
	/*
	 * Either we see the filter or bdev_filter_attach() sees the new size: pairs with
	 * the cmpxchg() in bdev_filter_publish(), before which the key was raised.
	 */
	smp_mb();
	if (static_branch_unlikely(&blk_filter_key))
		__blk_filter_resized(bdev);
}
#else
static inline bool blk_filter_bio(struct bio *bio)
{
	return false;
}

static inline void blk_filter_clone_bio(struct bio *bio, struct bio *bio_src)
{
}

static inline void blk_filter_unhook(struct bio *bio)
{
}

static inline void blk_filter_add_partition(struct block_device *part)
{
}

static inline void blk_filter_going(struct gendisk *disk)
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
