/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_BLK_FILTER_H
#define _LINUX_BLK_FILTER_H

#include <linux/bio.h>
#include <linux/blk-crypto.h>
#include <linux/blkdev.h>
#include <linux/memremap.h>

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
 * @BDEV_FILTER_TAKES: It calls bdev_filter_take().  A filter without this flag
 *	costs no worker thread.
 * @BDEV_FILTER_ARMS: It calls bdev_filter_arm() or bdev_filter_retarget().  A
 *	filter without this flag costs no pool of hooks.
 * @BDEV_FILTER_SAVES: Its ->detached() does I/O of its own, see
 *	bdev_filter_submit_wait().  The core opens the device for that.
 * @BDEV_FILTER_ZONED: It copes with zoned devices: it resubmits the writes to a
 *	zone in the order in which it took them.  Without it, it is not attached
 *	to them, and takes no zone operation and no write to a device that has
 *	become zoned.
 * @BDEV_FILTER_CRYPTO: It copes with inline encryption: the data of a bio with
 *	an encryption context is not what is on the device.  Without it, it is
 *	not attached to devices that offer inline encryption, and neither takes
 *	such a bio nor looks at its data.
 * @BDEV_FILTER_INTEGRITY: The same for devices and bios with integrity metadata.
 */
enum bdev_filter_flags {
	BDEV_FILTER_OPTIONS	= 1 << 0,
	BDEV_FILTER_TAKES	= 1 << 1,
	BDEV_FILTER_ARMS	= 1 << 2,
	BDEV_FILTER_SAVES	= 1 << 3,
	BDEV_FILTER_ZONED	= 1 << 4,
	BDEV_FILTER_CRYPTO	= 1 << 5,
	BDEV_FILTER_INTEGRITY	= 1 << 6,
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
 * @bio.
 *
 * Any context, also hard interrupt, with preemption disabled but on PREEMPT_RT: must
 * not sleep.
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
 */
struct bdev_filter_hook {
	struct bvec_iter iter;
	sector_t sector;
	u64 data[2];
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
 *	the user wrote after the name, never %NULL.  Runs in the context of who
 *	attaches; may sleep.  If it fails nothing else is called.  Optional.
 * @submit_bio: Called for each bio submitted to the device, once, under
 *	rcu_read_lock() and in the context of the submitter: it must not sleep.
 *	It may look at the bio, not change it.
 * @process: Finishes a bio that was handed to bdev_filter_defer().  Called for
 *	one bio at a time, in the order of deferral, by the filter's own
 *	"blkf-<device>" workqueue, which has a rescuer; may sleep.  A long sleep
 *	should be a bdev_filter_sleep().  Not called any more when @let_go is.
 *	Optional: without it, what is deferred is resubmitted.
 * @resized: The driver has set the size of the device to @nr_sectors sectors of
 *	512 bytes, maybe the same as before: the device may be another one behind
 *	the same name now, as a new table of device mapper is.  Called with 0
 *	when the device dies.  Called under rcu_read_lock() by whoever did it:
 *	must not sleep.  Optional.
 * @let_go: Finish the bios that the filter keeps in lists of its own.  Called
 *	once, when the filter is detached, or as soon as the device begins to go
 *	away: then @submit_bio is still called, but takes nothing any more.
 *	Called by the worker that calls @process: may sleep, must not wait for I/O
 *	nor for a detach.  Only for a filter with %BDEV_FILTER_TAKES.  Optional.
 * @detached: No @submit_bio runs any more and none will.  For
 *	%BDEV_FILTER_REMOVED the device may be gone already.  Called by
 *	system_dfl_wq; may sleep.  Optional.
 * @release: Counterpart of @attach, the last method called, when nothing is owned
 *	or armed any more; also called if another filter won the device after
 *	@attach.  Whatever else can still call into the module (timers, work,
 *	threads) has to be stopped here.  The instance is freed by the core.
 *	Called by system_dfl_wq; may sleep.  Optional.
 *
 * All methods that run in process context, but for @attach, are called in a
 * memalloc_noio scope: the device may be what the system swaps to.
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
	void (*let_go)(struct bdev_filter *flt);
	void (*detached)(struct bdev_filter *flt,
			 enum bdev_filter_reason reason);
	void (*release)(struct bdev_filter *flt);
};

struct bdev_filter_core;

/**
 * struct bdev_filter - a filter attached to a block device
 * @ops: Its kind.
 * @core: Of the block layer.
 * @on_partition: The device is a partition.
 * @name: Name of its kind, copied: valid after the module went.
 * @dev_name: Name of the device, copied: valid after the device went.
 */
struct bdev_filter {
	const struct bdev_filter_operations *ops;
	struct bdev_filter_core *core;
	bool on_partition;
	char name[BDEV_FILTER_NAME_LEN];
	char dev_name[DISK_NAME_LEN + 8];
};

int bdev_filter_register(const struct bdev_filter_operations *ops, void *data);
void bdev_filter_unregister(const struct bdev_filter_operations *ops);

struct bdev_filter *bdev_filter_attach(struct block_device *bdev,
				       const struct bdev_filter_operations *ops,
				       void *data, const char *options);
void bdev_filter_detach(struct bdev_filter *flt);

struct block_device *bdev_filter_bdev(struct bdev_filter *flt);
void bdev_filter_get_handle(struct bdev_filter *flt);
void bdev_filter_put_handle(struct bdev_filter *flt);
bool bdev_filter_is_attached(struct bdev_filter *flt);

bool bdev_filter_take(struct bdev_filter *flt, struct bio *bio);
void bdev_filter_defer(struct bdev_filter *flt, struct bio *bio);
bool bdev_filter_sleep(struct bdev_filter *flt, unsigned long timeout);
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status);
void bdev_filter_drop(struct bdev_filter *flt, struct bio *bio);
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio);
int bdev_filter_submit_wait(struct bdev_filter *flt, struct bio *owned,
			    struct bio *bio);
struct bdev_filter_hook *bdev_filter_arm(struct bdev_filter *flt,
					 struct bio *bio,
					 bdev_filter_end_io_t *end_io);
struct bdev_filter_hook *bdev_filter_arm_wait(struct bdev_filter *flt,
					      struct bio *bio,
					      bdev_filter_end_io_t *end_io);

struct bdev_filter_target;

struct bdev_filter_target *bdev_filter_make_target(struct bdev_filter *flt,
						   struct file *bdev_file,
						   void *holder);
void bdev_filter_put_target(struct bdev_filter_target *target);
bool bdev_filter_retarget(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_target *target, sector_t sector);
bool bdev_filter_retarget_wait(struct bdev_filter *flt, struct bio *bio,
			       struct bdev_filter_target *target,
			       sector_t sector);
bool bdev_filter_remap(struct bdev_filter *flt, struct bio *bio,
		       sector_t sector);

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
	sector_t sector = bio->bi_iter.bi_sector;

	if (flt->on_partition && bio_sectors(bio))
		sector -= bio->bi_bdev->bd_start_sect;
	return sector;
}

/**
 * bdev_filter_protected - whether a filter has to leave a bio alone
 * @flt: filter that is shown @bio
 * @bio: the bio
 *
 * True for a bio with an encryption context or integrity metadata, and for a
 * zone operation or a write to a zoned device, if the flags of the filter do not
 * say that it copes with it.
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
	/* That includes the zone operations. */
	if (unlikely(op_is_write(bio->bi_opf) && bdev_is_zoned(bio->bi_bdev)))
		needed |= BDEV_FILTER_ZONED;
	return unlikely(needed) && (needed & ~flt->ops->flags);
}

/**
 * bdev_filter_may_copy - whether the CPU may touch the data of a bio
 * @bio: the bio, which has data
 * @iter: where that starts
 *
 * False for memory of a device.  All of the data of a bio is such memory, or none.
 */
static inline bool bdev_filter_may_copy(struct bio *bio, struct bvec_iter iter)
{
	return !IS_ENABLED(CONFIG_PCI_P2PDMA) ||
		!is_pci_p2pdma_page(bio_iter_iovec(bio, iter).bv_page);
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
	return bio_has_data(bio) && !bdev_filter_protected(flt, bio) &&
		bdev_filter_may_copy(bio, bio->bi_iter);
}

#endif /* _LINUX_BLK_FILTER_H */
