/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_BLK_FILTER_H
#define _LINUX_BLK_FILTER_H

#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/refcount.h>
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
 *
 * As a truth value: true means "I've taken this bio off the submission path".
 */
enum bdev_filter_verdict {
	BDEV_FILTER_PASS	= 0,
	BDEV_FILTER_TAKEN	= 1,
	BDEV_FILTER_END		= 2,
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
 * struct bdev_filter_operations - a kind of filter
 * @name: Name by which user space attaches it: printable, no white space, no
 *	brackets, shorter than %BDEV_FILTER_NAME_LEN, not "none".
 * @owner: Module the methods live in.
 * @size: Size of an instance, which starts with its &struct bdev_filter.
 *	Instances are allocated zeroed by kmalloc().
 * @attach: Prepare an instance before any bio can reach it.  @data is what was
 *	given to bdev_filter_register().  May sleep.  Nothing else is called if
 *	it fails.  Optional.
 * @submit_bio: Called for each bio submitted to the device, once, under
 *	rcu_read_lock() and in the context of the submitter: it must not sleep.
 *	It may look at the bio, not change it.
 * @detached: No @submit_bio runs any more and none will.  Bios still owned have
 *	to be finished now; the filter is released once they are.  For
 *	%BDEV_FILTER_REMOVED the device may be gone already.  May sleep.
 *	Optional.
 * @release: Counterpart of @attach, the last method called; also called if
 *	another filter won the device after @attach.  The instance is freed by
 *	the core.  May sleep.  Optional.
 */
struct bdev_filter_operations {
	const char *name;
	struct module *owner;
	size_t size;
	int (*attach)(struct bdev_filter *flt, void *data);
	enum bdev_filter_verdict (*submit_bio)(struct bdev_filter *flt,
					       struct bio *bio);
	void (*detached)(struct bdev_filter *flt,
			 enum bdev_filter_reason reason);
	void (*release)(struct bdev_filter *flt);
};

/**
 * struct bdev_filter - a filter attached to a block device
 * @ops: Its kind.
 * @dev_name: Name of the device, copied at attach: valid after the device went.
 *
 * All other members are private to block/blk-filter.c.
 */
struct bdev_filter {
	const struct bdev_filter_operations *ops;
	char dev_name[DISK_NAME_LEN + 8];

	/* private: see the top of block/blk-filter.c */
	struct block_device __rcu *bdev;
	refcount_t refs;
	refcount_t handles;
	bool on_partition;
	struct completion released;
	struct work_struct remove_work;
	struct work_struct release_work;
};

int bdev_filter_register(const struct bdev_filter_operations *ops, void *data);
void bdev_filter_unregister(const struct bdev_filter_operations *ops);

struct bdev_filter *bdev_filter_get(struct block_device *bdev);
void bdev_filter_put(struct bdev_filter *flt);

void bdev_filter_take(struct bdev_filter *flt, struct bio *bio);
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status);
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio);

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

#endif /* _LINUX_BLK_FILTER_H */
