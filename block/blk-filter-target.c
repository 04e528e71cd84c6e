// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: bios that go to another device, or another place.
 *
 * A target is a device that a filter may send bios to.  It is checked once, when it is
 * made, against what does not depend on the bio: the file is open for what is done with
 * it, the device takes all that the submitter was told that the filtered device takes,
 * and it does not lie on top of that.  The filter has a reference to the target, and
 * each bio that is on its way there: the device stays open until the last has
 * completed.
 *
 * bdev_filter_targets has all of them, for the check that no circle comes into being.
 * It sees what device mapper and MD say of their lower devices, and other filters'
 * targets.  Stacks can be rebuilt afterwards, and a loop device does not say where the
 * file system is that has its file: both can make a circle still, as they can without
 * filters.
 */
#include <linux/blk-filter.h>
#include <linux/blk-integrity.h>
#include <linux/file.h>
#include <trace/events/block.h>
#include "blk.h"
#include "blk-filter.h"
#include "blk-throttle.h"

/* Devices on top of each other; what is deeper is refused. */
#define BDEV_FILTER_DEPTH	16

/*
 * The filtered device.  It may be gone, and another have its number by now: then a
 * target is refused without need, until the filter is released.
 */
struct bdev_filter_place {
	dev_t disk;
	u8 partno;
};

struct bdev_filter_target {
	refcount_t refs;
	struct file *file;
	void *holder;
	/* The filter that it was made for, until that is released. */
	struct bdev_filter_core *core;
	struct bdev_filter_place from;
	struct list_head entry;
	struct work_struct work;
};

static DEFINE_MUTEX(bdev_filter_targets_lock);
static LIST_HEAD(bdev_filter_targets);

/* Whether what is submitted to @bdev is seen by a filter of @from. */
static bool bdev_filter_sees(const struct bdev_filter_place *from,
			     struct block_device *bdev)
{
	return bdev_whole(bdev)->bd_dev == from->disk &&
		(!from->partno || bdev_partno(bdev) == from->partno);
}

struct bdev_filter_walk {
	struct bdev_filter_place from;
	unsigned int depth;
};

/* Whether bios for @bdev come by @walk->from again, so far as can be told. */
static bool bdev_filter_reaches(struct block_device *bdev, void *data)
{
	struct bdev_filter_walk *walk = data;
	struct bdev_filter_target *target;
	bool reaches;

	lockdep_assert_held(&bdev_filter_targets_lock);

	if (bdev_filter_sees(&walk->from, bdev) ||
	    walk->depth == BDEV_FILTER_DEPTH)
		return true;
	walk->depth++;
	reaches = blk_any_lower(bdev->bd_disk, bdev_filter_reaches, walk);
	list_for_each_entry(target, &bdev_filter_targets, entry) {
		if (reaches)
			break;
		if (bdev_filter_sees(&target->from, bdev))
			reaches = bdev_filter_reaches(file_bdev(target->file),
						      walk);
	}
	walk->depth--;
	return reaches;
}

/* Whether @to takes all that who submits to @from may rely on. */
static bool bdev_filter_covers(struct block_device *to,
			       struct block_device *from)
{
	/* What the device must have if the other has it, and must not if not. */
	const blk_features_t needs = BLK_FEAT_NOWAIT | BLK_FEAT_PCI_P2PDMA;
	const blk_features_t asks = BLK_FEAT_WRITE_CACHE | BLK_FEAT_STABLE_WRITES;
	const struct queue_limits *a = bdev_limits(from), *b = bdev_limits(to);
	struct blk_integrity *bi = blk_get_integrity(to->bd_disk);

	/* A flush is stripped above us if the filtered device has no cache. */
	if ((needs & a->features & ~b->features) ||
	    (asks & b->features & ~a->features) ||
	    (bdev_write_cache(to) && !bdev_write_cache(from)))
		return false;
	if (bdev_is_zoned(to) || bdev_is_zoned(from))
		return false;
	if (bi && (!blk_get_integrity(from->bd_disk) ||
		   memcmp(bi, blk_get_integrity(from->bd_disk), sizeof(*bi))))
		return false;
	return b->logical_block_size <= a->logical_block_size &&
		!(b->dma_alignment & ~a->dma_alignment);
}

/* Whether it is for the caller to close the file. */
static bool bdev_filter_unlist(struct bdev_filter_target *target)
{
	lockdep_assert_held(&bdev_filter_targets_lock);

	if (list_empty(&target->entry))
		return false;
	list_del_init(&target->entry);
	return true;
}

static void bdev_filter_close_target(struct bdev_filter_core *core,
				     struct file *file, void *holder)
{
	blk_filter_close(file);
	kfree(holder);
	/* The release waits for that. */
	if (atomic_dec_and_test(&core->targets))
		wake_up_var(&core->targets);
	bdev_filter_put_core(core);
}

static void bdev_filter_free_target(struct work_struct *work)
{
	struct bdev_filter_target *target =
		container_of(work, struct bdev_filter_target, work);
	bool close;

	mutex_lock(&bdev_filter_targets_lock);
	close = bdev_filter_unlist(target);
	mutex_unlock(&bdev_filter_targets_lock);
	if (close)
		bdev_filter_close_target(target->core, target->file,
					 target->holder);
	kfree(target);
}

/*
 * The filter is being released: no bio is on its way to any of its targets.  Who still
 * has one, outside of the filter, has only memory.
 */
void blk_filter_close_targets(struct bdev_filter_core *core)
{
	struct bdev_filter_target *target;
	struct file *file;
	void *holder;

again:
	mutex_lock(&bdev_filter_targets_lock);
	list_for_each_entry(target, &bdev_filter_targets, entry) {
		if (target->core != core)
			continue;
		/* It may be freed as soon as the mutex is. */
		bdev_filter_unlist(target);
		WRITE_ONCE(target->core, NULL);
		file = target->file;
		holder = target->holder;
		mutex_unlock(&bdev_filter_targets_lock);
		bdev_filter_close_target(core, file, holder);
		goto again;
	}
	mutex_unlock(&bdev_filter_targets_lock);
	wait_var_event(&core->targets, !atomic_read(&core->targets));
}

/**
 * bdev_filter_put_target - put what bdev_filter_make_target() returned
 * @target: the target
 *
 * Bios that are on their way there keep the device open for as long as that takes.  It
 * is closed when the filter is released, at the latest after ->release().
 *
 * Context: Any.
 */
void bdev_filter_put_target(struct bdev_filter_target *target)
{
	if (refcount_dec_and_test(&target->refs))
		queue_work(system_dfl_wq, &target->work);
}
EXPORT_SYMBOL_GPL(bdev_filter_put_target);

/**
 * bdev_filter_make_target - make a device one that bios can be sent to
 * @flt: the filter, of a kind with %BDEV_FILTER_ARMS
 * @bdev_file: the device, open for writing if writes are to go there; on success
 *	the target takes over the reference, and closes it
 * @holder: the holder that it was opened with, from kmalloc(), which is freed when it
 *	is closed; or %NULL
 *
 * The device must take what was promised to who submits to the device of the filter:
 * blocks as small, memory aligned no better, neither a volatile cache nor stable pages
 * if that has none, no zones, the same integrity profile or none.
 *
 * Context: ->attach(), or elsewhere with a bio that the filter owns.  May sleep.
 *
 * Return: the target, to be given to bdev_filter_put_target(), or -EOPNOTSUPP if
 * the device does not take all that, -ELOOP if it is the filtered device or lies on top
 * of it, -ENODEV if the device of the filter is being removed, -ENOMEM.
 */
struct bdev_filter_target *bdev_filter_make_target(struct bdev_filter *flt,
						   struct file *bdev_file,
						   void *holder)
{
	struct block_device *to = file_bdev(bdev_file);
	struct bdev_filter_target *target;
	struct bdev_filter_walk walk = { };
	struct block_device *from;
	int ret = 0;

	target = kzalloc_obj(*target, GFP_NOIO);
	if (!target)
		return ERR_PTR(-ENOMEM);
	refcount_set(&target->refs, 1);
	target->core = flt->core;
	target->file = bdev_file;
	target->holder = holder;
	INIT_WORK(&target->work, bdev_filter_free_target);

	mutex_lock(&bdev_filter_targets_lock);
	rcu_read_lock();
	from = rcu_dereference(flt->core->bdev);
	if (!from)
		ret = -ENODEV;
	else if (!bdev_filter_covers(to, from))
		ret = -EOPNOTSUPP;
	else
		walk.from = (struct bdev_filter_place) {
			.disk = bdev_whole(from)->bd_dev,
			.partno = bdev_partno(from),
		};
	rcu_read_unlock();
	blk_lock_holders();
	if (!ret && bdev_filter_reaches(to, &walk))
		ret = -ELOOP;
	blk_unlock_holders();
	if (!ret) {
		target->from = walk.from;
		list_add(&target->entry, &bdev_filter_targets);
		atomic_inc(&flt->core->targets);
		refcount_inc(&flt->core->handles);
	}
	mutex_unlock(&bdev_filter_targets_lock);

	if (ret) {
		kfree(target);
		return ERR_PTR(ret);
	}
	return target;
}
EXPORT_SYMBOL_GPL(bdev_filter_make_target);

static bool bdev_filter_check_moved(struct bio *bio)
{
	if (!blk_filter_segments_aligned(bio->bi_bdev, bio)) {
		bio_endio_status(bio, BLK_STS_INVAL);
		return false;
	}
	return blk_filter_check_bio(bio);
}

/*
 * A bio goes where a filter sent it, through the checks and filters there: what
 * submit_bio_noacct() does, without the recursion.  True if it does not go on here.
 */
bool blk_filter_retarget(struct bio *bio)
{
	for (;;) {
		struct block_device *bdev = bio->bi_bdev;
		enum bdev_filter_verdict verdict;

		if (!bdev_filter_check_moved(bio) || blk_throtl_bio(bio))
			return true;
		if (!bdev_test_flag(bdev, BD_FILTERED))
			return false;
		verdict = blk_filter_call(bdev, bio);
		if (verdict != BDEV_FILTER_RETARGET)
			return verdict;
	}
}

static bool bdev_filter_send_to(struct bdev_filter *flt, struct bio *bio,
				struct bdev_filter_target *target,
				sector_t sector, gfp_t gfp)
{
	struct block_device *from = bio->bi_bdev, *bdev;
	sector_t old = bio->bi_iter.bi_sector;

	/* Else it was checked for another device, and may be closed. */
	if (READ_ONCE(target->core) != flt->core)
		return false;
	bdev = file_bdev(target->file);
	/* Both may have changed since the target was made. */
	if (!bdev_filter_covers(bdev, from))
		return false;
	/* Keys and integrity data were made for the other device. */
	if (bio_has_crypt_ctx(bio) || bio_integrity(bio))
		return false;
	if (op_is_write(bio->bi_opf) && !(target->file->f_mode & FMODE_WRITE))
		return false;
	if (!blk_filter_hook_target(flt, bio, target, gfp))
		return false;
	refcount_inc(&target->refs);
	bio_clear_polled(bio);
	bio_set_dev(bio, bdev);
	bio_clear_flag(bio, BIO_FILTERED);
	bio->bi_iter.bi_sector = sector;
	trace_block_bio_remap(bio, from->bd_dev, old);
	return true;
}

/**
 * bdev_filter_retarget - send a bio to another device
 * @flt: the filter, of a kind with %BDEV_FILTER_ARMS
 * @bio: the bio
 * @target: where to
 * @sector: sector of the target, in units of 512 bytes
 *
 * For ->submit_bio(), which returns %BDEV_FILTER_RETARGET after it, or for a bio that
 * the filter owns and resubmits after it.  The bio then goes through the checks and
 * filters of the other device, as if it had been submitted there, and fails if it does
 * not suit that as it is by then.  When it completes it is one of the device that it
 * was submitted to again.
 *
 * Context: Any.
 *
 * Return: false, with nothing changed, if there is no memory, if the filter may not do
 * this to the bio, see bdev_filter_protected(), if the target does not cover the device
 * of the bio any more, if the bio has an encryption context or
 * integrity data, if it is a write and the target is not open for writing, or if the
 * target was made for another filter.
 */
bool bdev_filter_retarget(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_target *target, sector_t sector)
{
	return bdev_filter_send_to(flt, bio, target, sector,
				   GFP_NOWAIT | __GFP_NOWARN);
}
EXPORT_SYMBOL_GPL(bdev_filter_retarget);

/**
 * bdev_filter_retarget_wait - bdev_filter_retarget() that waits for memory
 * @flt: the filter, of a kind with %BDEV_FILTER_ARMS
 * @bio: a bio that it resubmits right after this
 * @target: where to
 * @sector: sector of the target, in units of 512 bytes
 *
 * Context: As bdev_filter_arm_wait().
 *
 * Return: as bdev_filter_retarget(), but there is memory.
 */
bool bdev_filter_retarget_wait(struct bdev_filter *flt, struct bio *bio,
			       struct bdev_filter_target *target,
			       sector_t sector)
{
	if (bdev_filter_retarget(flt, bio, target, sector))
		return true;
	blk_filter_flush_processed(flt->core);
	return bdev_filter_send_to(flt, bio, target, sector, GFP_NOIO);
}
EXPORT_SYMBOL_GPL(bdev_filter_retarget_wait);

/**
 * bdev_filter_remap - move a bio to another place of its device
 * @flt: the filter
 * @bio: the bio, which the filter then passes or resubmits
 * @sector: where to, in units of 512 bytes, relative to the device of the filter
 *
 * A bio that reached the filter of a disk through a partition stays within that.
 *
 * Context: Any.
 *
 * Return: false, with nothing changed, if the filter may not do this to the bio, see
 * bdev_filter_protected(), if the bio has no sectors, if the device is zoned, or if the
 * bio would be beyond the end of the device or not at a whole logical block there.
 */
bool bdev_filter_remap(struct bdev_filter *flt, struct bio *bio,
		       sector_t sector)
{
	struct block_device *bdev = bio->bi_bdev;
	sector_t start = bdev_is_partition(bdev) ? bdev->bd_start_sect : 0;
	sector_t max = bdev_nr_sectors(bdev);
	unsigned int nr = bio_sectors(bio);
	sector_t first = flt->on_partition ? sector : sector - start;

	if (bdev_filter_protected(flt, bio) || !nr || bdev_is_zoned(bdev) ||
	    nr > max || first > max - nr ||
	    !IS_ALIGNED(first << SECTOR_SHIFT, bdev_logical_block_size(bdev)))
		return false;
	bio->bi_iter.bi_sector = first + start;
	return true;
}
EXPORT_SYMBOL_GPL(bdev_filter_remap);
