/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_BLK_FILTER_H
#define _LINUX_BLK_FILTER_H

#include <linux/bio.h>
#include <linux/blk-crypto.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/mempool.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

struct bdev_filter;

/* Longest name of a filter, including the terminating NUL. */
#define BDEV_FILTER_NAME_LEN	32

/**
 * enum bdev_filter_verdict - what a filter did with a bio
 * @BDEV_FILTER_PASS: Nothing, the bio goes on to the device.
 * @BDEV_FILTER_TAKEN: It took ownership with bdev_filter_take().  The block
 *	layer does not touch the bio again.
 * @BDEV_FILTER_END: The bio ends here with the status in bi_status, see
 *	bdev_filter_end().
 * @BDEV_FILTER_RETARGET: The bio goes to where bdev_filter_retarget() said.
 *
 * As a truth value: true means "I've taken this bio off the submission path".
 */
enum bdev_filter_verdict {
	BDEV_FILTER_PASS	= 0,
	BDEV_FILTER_TAKEN	= 1,
	BDEV_FILTER_END		= 2,
	BDEV_FILTER_RETARGET	= 3,
};

/**
 * enum bdev_filter_reason - why a filter lost its device
 * @BDEV_FILTER_DETACHED: It was detached; the device goes on without it.
 * @BDEV_FILTER_REMOVED: The device goes away.
 */
enum bdev_filter_reason {
	BDEV_FILTER_DETACHED,
	BDEV_FILTER_REMOVED,
};

/**
 * enum bdev_filter_flags - what a kind of filter can do
 * @BDEV_FILTER_OPTIONS: It looks at the options given to its ->attach().
 *	Without it, options are refused.
 * @BDEV_FILTER_ZONED: It copes with zoned devices: writes to a zone stay in
 *	order.  Without it, it is not attached to them, and takes no zone
 *	operation.
 * @BDEV_FILTER_CRYPTO: It copes with inline encryption: the data of a bio with
 *	an encryption context is not what is on the device.  Without it, it is
 *	not attached to devices that offer inline encryption, and neither takes
 *	such a bio nor looks at its data.
 * @BDEV_FILTER_INTEGRITY: The same for devices and bios with integrity metadata.
 */
enum bdev_filter_flags {
	BDEV_FILTER_OPTIONS	= 1 << 0,
	BDEV_FILTER_ZONED	= 1 << 1,
	BDEV_FILTER_CRYPTO	= 1 << 2,
	BDEV_FILTER_INTEGRITY	= 1 << 3,
};

struct bdev_filter_hook;

/**
 * typedef bdev_filter_end_io_t - a bio that a filter armed completes
 * @flt: the filter
 * @bio: the bio
 * @hook: what bdev_filter_arm() returned
 *
 * May look at the status and, if that is fine and it was a read, at the data, and
 * may change bi_status, though the error of a zone operation stays.  May not resubmit
 * the bio.
 */
typedef void bdev_filter_end_io_t(struct bdev_filter *flt, struct bio *bio,
				  struct bdev_filter_hook *hook);

/**
 * struct bdev_filter_hook - completion of a bio that a filter armed
 * @iter: What the bio was about when it was armed, with sectors of the whole
 *	disk.  The data of the bio is found with a copy of this, not with its
 *	bi_iter, which has moved on.
 * @sector: The first sector then, relative to the device of the filter.
 * @data: For the filter.
 *
 * All other members are private to block/blk-filter.c.
 */
struct bdev_filter_hook {
	struct bvec_iter iter;
	sector_t sector;
	void *data[2];
	/* private: */
	struct bdev_filter *flt;
	bdev_filter_end_io_t *end_io;
	bio_end_io_t *bi_end_io;
	void *bi_private;
	bool in_task;
};

/**
 * struct bdev_filter_operations - a kind of filter
 * @name: Name by which user space attaches it: printable, no white space, no
 *	brackets, shorter than %BDEV_FILTER_NAME_LEN, not "none".
 * @owner: Module the methods live in.
 * @size: Size of an instance, which starts with its &struct bdev_filter.
 *	Instances are allocated zeroed by kmalloc().
 * @flags: See &enum bdev_filter_flags.
 * @attach: Prepare an instance before any bio can reach it.  @data is what was
 *	given to bdev_filter_register() or bdev_filter_attach(), @options what
 *	the user wrote after the name, never %NULL.  May sleep.  Nothing else is
 *	called if it fails.  Optional.
 * @submit_bio: Called for each bio submitted to the device, once, under
 *	rcu_read_lock() and in the context of the submitter: it must not sleep.
 *	It may look at the bio, not change it.
 * @process: Finishes a bio that was handed to bdev_filter_defer().  Called for
 *	one bio at a time, in the order of deferral, from a workqueue of the
 *	instance's own; may sleep, allocates without I/O.  Not called any more when
 *	@detached is, which waits for it.  Optional.
 * @resized: The driver has set the size of the device to @nr_sectors sectors of
 *	512 bytes, maybe the same as before: the device may be another one behind
 *	the same name now, as a new table of device mapper is.  Called under
 *	rcu_read_lock() by whoever did it: must not sleep.  Optional.
 * @detached: No @submit_bio runs any more and none will.  Bios still owned have
 *	to be finished now; deferred ones are resubmitted by the core, without
 *	@process, after this.  The filter is released once nothing is owned or
 *	in flight.  For %BDEV_FILTER_REMOVED the device may be gone already.
 *	May sleep.  Optional.
 * @release: Counterpart of @attach, the last method called; also called if
 *	another filter won the device after @attach.  Whatever else can still
 *	call into the module (timers, work, threads) has to be stopped here.
 *	The instance is freed by the core.  May sleep.  Optional.
 */
struct bdev_filter_operations {
	const char *name;
	struct module *owner;
	size_t size;
	unsigned int flags;
	int (*attach)(struct bdev_filter *flt, void *data, const char *options);
	enum bdev_filter_verdict (*submit_bio)(struct bdev_filter *flt,
					       struct bio *bio);
	void (*process)(struct bdev_filter *flt, struct bio *bio);
	void (*resized)(struct bdev_filter *flt, sector_t nr_sectors);
	void (*detached)(struct bdev_filter *flt,
			 enum bdev_filter_reason reason);
	void (*release)(struct bdev_filter *flt);
};

/* private: see block/blk-filter.c */
enum bdev_filter_state {
	BDEV_FILTER_STATE_NEW,
	BDEV_FILTER_STATE_ATTACHED,
	BDEV_FILTER_STATE_DETACHED,
	BDEV_FILTER_STATE_REMOVED,
};

struct bdev_filter_pcpu {
	unsigned long seen;
	unsigned long taken;
	struct bdev_filter_hook *hooks;
	unsigned int nr_hooks;
};

/**
 * struct bdev_filter - a filter attached to a block device
 * @ops: Its kind.
 * @name: Name of its kind, copied: valid after the module went.
 * @dev_name: Name of the device, copied: valid after the device went.
 *
 * All other members are private to block/blk-filter.c.
 */
struct bdev_filter {
	const struct bdev_filter_operations *ops;
	/* private: see the top of block/blk-filter.c */
	struct bdev_filter_pcpu __percpu *pcpu;
	struct block_device __rcu *bdev;
	struct module *owner;
	refcount_t refs;
	refcount_t handles;
	enum bdev_filter_state state;
	bool on_partition;
	bool detaching;
	bool draining;
	/* public: */
	char name[BDEV_FILTER_NAME_LEN];
	char dev_name[DISK_NAME_LEN + 8];

	/* private: */
	spinlock_t lock;
	struct bio_list deferred;
	struct bio_list resubmitted;
	struct workqueue_struct *wq;
	mempool_t *hooks;
	struct work_struct work;
	struct completion released;
	struct work_struct cut_work;
	struct work_struct release_work;
	struct list_head entry;
	struct rcu_head rcu;
};

/**
 * struct bdev_filter_io - I/O of a filter's own
 *
 * Memory for bdev_filter_submit_below(), not on the stack, valid until
 * ->bi_end_io() of the bio is called.  All members are private to block/blk-filter.c.
 */
struct bdev_filter_io {
	/* private: */
	struct bdev_filter *flt;
	struct block_device *bdev;
	struct bio *bio;
	bio_end_io_t *end_io;
	void *private;
	struct work_struct work;
};

int bdev_filter_register(const struct bdev_filter_operations *ops, void *data);
void bdev_filter_unregister(const struct bdev_filter_operations *ops);

struct bdev_filter *bdev_filter_attach(struct block_device *bdev,
				       const struct bdev_filter_operations *ops,
				       void *data, const char *options);
void bdev_filter_detach(struct bdev_filter *flt);

void bdev_filter_get_handle(struct bdev_filter *flt);
void bdev_filter_put_handle(struct bdev_filter *flt);
bool bdev_filter_is_attached(struct bdev_filter *flt);

struct bdev_filter *bdev_filter_get(struct block_device *bdev);
void bdev_filter_put(struct bdev_filter *flt);

bool bdev_filter_take(struct bdev_filter *flt, struct bio *bio);
void bdev_filter_defer(struct bdev_filter *flt, struct bio *bio);
struct bdev_filter_hook *bdev_filter_arm(struct bdev_filter *flt,
					 struct bio *bio,
					 bdev_filter_end_io_t *end_io);
struct bdev_filter_hook *bdev_filter_arm_in_task(struct bdev_filter *flt,
						 struct bio *bio,
						 bdev_filter_end_io_t *end_io);
bool bdev_filter_retarget(struct bdev_filter *flt, struct bio *bio,
			  struct block_device *bdev, sector_t sector);
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status);
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio);
int bdev_filter_submit_below(struct bdev_filter *flt, struct bio *bio,
			     struct bdev_filter_io *io);

/**
 * bdev_filter_end - verdict that ends a bio
 * @bio: the bio passed to ->submit_bio()
 * @status: status it ends with
 *
 * Use as ``return bdev_filter_end(bio, BLK_STS_IOERR);``.  The core ends the
 * bio after ->submit_bio() returned, outside of the RCU read section.
 */
static inline enum bdev_filter_verdict bdev_filter_end(struct bio *bio,
						       blk_status_t status)
{
	/* Part of the bio may have been split off and failed before. */
	if (status)
		bio->bi_status = status;
	return BDEV_FILTER_END;
}

/**
 * bdev_filter_sector - first sector of a bio, relative to the filtered device
 * @flt: filter that is shown @bio
 * @bio: the bio
 *
 * In units of 512 bytes.  A bio that reached the filter of a partition carries
 * the sector on the whole disk already, unless it has no sectors: nobody adds
 * the start of the partition to an empty flush.
 */
static inline sector_t bdev_filter_sector(const struct bdev_filter *flt,
					  const struct bio *bio)
{
	if (flt->on_partition && bio_sectors(bio))
		return bio->bi_iter.bi_sector - bio->bi_bdev->bd_start_sect;
	return bio->bi_iter.bi_sector;
}

/**
 * bdev_filter_protected - whether a filter has to leave a bio alone
 * @flt: filter that is shown @bio
 * @bio: the bio
 *
 * True for a bio with an encryption context or integrity metadata, and for a
 * zone operation, if the flags of the filter do not say that it copes with it.
 * The filter may pass or end it, but neither take it nor look at its data.
 */
static inline bool bdev_filter_protected(const struct bdev_filter *flt,
					 struct bio *bio)
{
	unsigned int needed = 0;

	if (unlikely(bio_has_crypt_ctx(bio)))
		needed |= BDEV_FILTER_CRYPTO;
	if (unlikely(bio->bi_opf & REQ_INTEGRITY))
		needed |= BDEV_FILTER_INTEGRITY;
	if (unlikely(op_is_zone_mgmt(bio_op(bio)) ||
		     bio_op(bio) == REQ_OP_ZONE_APPEND))
		needed |= BDEV_FILTER_ZONED;
	return unlikely(needed) && (needed & ~flt->ops->flags);
}

/**
 * bdev_filter_has_data - whether a filter may look at the data of a bio
 * @flt: filter that is shown @bio
 * @bio: the bio
 *
 * The data of a read is there only when it completed.
 */
static inline bool bdev_filter_has_data(const struct bdev_filter *flt,
					struct bio *bio)
{
	return bio_has_data(bio) && !bdev_filter_protected(flt, bio);
}

#endif /* _LINUX_BLK_FILTER_H */
