// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: see, hold or refuse the I/O of a device in use.
 *
 * See Documentation/block/blkfilter.rst for how to use and write one.
 *
 * Lifetime
 * --------
 *
 * bdev->bd_filter points at the filter of a device.  Attach publishes it,
 * detach, removal or evict takes it back.  All of them use cmpxchg(), so a
 * filter leaves its slot exactly once, and whoever made it leave sees it
 * through.  The submission path reads it under rcu_read_lock() and calls
 * ->submit_bio there: it takes no reference and writes only per-CPU counters.
 * The pointer stays good until the reference of the slot is dropped, which is
 * always after a grace period.
 *
 * flt->refs counts what keeps a filter working: the slot, each bio it took, each
 * it armed, its own I/O in flight, and the short-lived users of
 * bdev_filter_get().  Taking is a plain increment: it happens inside
 * ->submit_bio, where the slot's reference is there.  The last put queues
 * release_work, never releases in place, as it may come from a completion in
 * interrupt context.  The release ends the filter's own workqueue, so that no
 * ->process runs, and drops the module reference that attach took: it is the core
 * that does it, so no module text runs after it.
 *
 * flt->handles counts what keeps only the memory: one for the filter itself
 * until it is released, and one for each who may still detach it or waits for
 * its release.  The memory is freed by RCU.
 *
 * bdev_filter_list has the filters from when they are published until they are
 * released, for modules that fail to initialize: those go whoever has a reference to
 * them, so their filters are detached, and waited for, before.
 *
 * flt->bdev leads from a filter to its device.  Removal clears it, at evict at
 * the latest, and it is read under rcu_read_lock() only.  The memory of
 * block_device and gendisk is freed by RCU after evict, and the driver's by
 * module unloading, which waits for a grace period too, after del_gendisk() cut
 * the filter loose.  So who still sees the pointer can look at the device; who
 * needs it for longer uses bdev_filter_pin(), which fails for a device that is
 * going away.  A filter that is attached pins nothing of its device but for its
 * own I/O in flight.  One that was detached leaves its slot, so removal would
 * not find it any more: it pins the device until it has been released.
 *
 * flt->deferred and flt->resubmitted hold bios that the filter owns, linked
 * through bi_next, under flt->lock.  The workqueue is poked under that lock as
 * well: after it was dropped the worker may finish the last bio, and with it
 * the filter.
 *
 * A queue freeze plays no part in any of this: it does not drain the hook, and
 * for devices with a ->submit_bio method it never did.
 *
 * Lock order
 * ----------
 *
 * bdev_filter_mutex in blk-filter-sysfs.c: the kinds that are registered.
 * disk->filter_lock: the slots of a disk and its partitions, with BD_FILTERED and
 *	the check that the device is not going away.
 *   flt->lock: the lists of a filter.
 *   bdev_filter_list_lock
 *
 * The first two are mutexes, not nested in each other, the others spinlocks, and
 * nothing else nests in them.
 * The core calls no method of a filter with any held, but allocates for uevents,
 * without I/O, with the second held.  Removal holds
 * disk->open_mutex and takes filter_lock only; bd_holder_lock has nothing to do
 * with filters.  The sysfs attribute gives up its active reference before it
 * takes any lock or waits, so device_del() never waits for an attach or detach.
 */
#define pr_fmt(fmt) "blk-filter: " fmt

#include <linux/blk-filter.h>
#include <linux/blk-integrity.h>
#include <linux/percpu.h>
#include <trace/events/block.h>
#include "blk.h"
#include "blk-filter.h"

#define CREATE_TRACE_POINTS
#include <trace/events/bdev_filter.h>

/* Say how a detach is going after this long. */
#define BDEV_FILTER_WAIT	(10 * HZ)

DEFINE_STATIC_KEY_FALSE(blk_filter_key);

static LIST_HEAD(bdev_filter_list);
static DEFINE_SPINLOCK(bdev_filter_list_lock);

/* Detach, and the end of a filter's own I/O, which the former may wait for. */
static struct workqueue_struct *bdev_filter_wq;
static struct workqueue_struct *bdev_filter_io_wq;

static __always_inline enum bdev_filter_verdict
bdev_filter_call(struct bdev_filter *flt, struct bio *bio)
{
	if (!flt)
		return BDEV_FILTER_PASS;
	this_cpu_inc(flt->pcpu->seen);
	return flt->ops->submit_bio(flt, bio);
}

/* The end of the RCU read section for all but the usual verdict. */
static noinline enum bdev_filter_verdict
bdev_filter_finish(struct bdev_filter *flt, struct bio *bio,
		   enum bdev_filter_verdict verdict)
	__releases_shared(RCU)
{
	if (verdict == BDEV_FILTER_END)
		trace_bdev_filter_finish(flt, bio);
	rcu_read_unlock();

	/* ->bi_end_io may not expect to be in an RCU read section. */
	if (verdict == BDEV_FILTER_END)
		bio_endio(bio);
	return verdict;
}

/*
 * Shows a bio to the filters from @bdev on: that of the partition, if it is one,
 * then that of the disk.
 */
static __always_inline enum bdev_filter_verdict
bdev_filter_call_all(struct block_device *bdev, struct bio *bio)
{
	enum bdev_filter_verdict verdict;
	struct bdev_filter *flt;

	bio_set_flag(bio, BIO_FILTERED);
	rcu_read_lock();
	if (bdev_is_partition(bdev)) {
		flt = rcu_dereference(bdev->bd_filter);
		verdict = bdev_filter_call(flt, bio);
		if (unlikely(verdict))
			return bdev_filter_finish(flt, bio, verdict);
		bdev = bdev_whole(bdev);
	}
	flt = rcu_dereference(bdev->bd_filter);
	verdict = bdev_filter_call(flt, bio);
	if (unlikely(verdict))
		return bdev_filter_finish(flt, bio, verdict);
	rcu_read_unlock();
	return BDEV_FILTER_PASS;
}

/* For blk_filter_retarget(). */
enum bdev_filter_verdict blk_filter_call(struct block_device *bdev,
					 struct bio *bio)
{
	return bdev_filter_call_all(bdev, bio);
}

/* True if the bio does not go on from here. */
bool __blk_filter_bio(struct block_device *bdev, struct bio *bio)
{
	enum bdev_filter_verdict verdict = bdev_filter_call_all(bdev, bio);

	if (unlikely(verdict == BDEV_FILTER_RETARGET))
		return blk_filter_retarget(bio);
	return verdict;
}

/* The driver has set the size of the device. */
void __blk_filter_resized(struct block_device *bdev)
{
	struct bdev_filter *flt;

	/*
	 * Either we see the filter or bdev_filter_attach() sees the new size: pairs
	 * with the cmpxchg() in bdev_filter_publish().
	 */
	smp_mb();
	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt && flt->ops->resized)
		flt->ops->resized(flt, bdev_nr_sectors(bdev));
	rcu_read_unlock();
}

/**
 * bdev_filter_take - take ownership of a bio
 * @flt: the filter
 * @bio: the bio passed to its ->submit_bio()
 *
 * To be called from ->submit_bio() before anyone else can see the bio; that
 * method then returns %BDEV_FILTER_TAKEN.  From here on the filter has to finish
 * the bio exactly once, with bdev_filter_endio() or bdev_filter_resubmit(), or
 * hand it to its ->process() with bdev_filter_defer().
 *
 * Any context.
 *
 * Return: false if the filter may not have this bio, see
 * bdev_filter_protected(): it has to pass or end it.
 */
bool bdev_filter_take(struct bdev_filter *flt, struct bio *bio)
{
	if (unlikely(bdev_filter_protected(flt, bio)))
		return false;

	refcount_inc(&flt->refs);
	this_cpu_inc(flt->pcpu->taken);
	/* Nobody polls for a bio that is not on a hardware queue. */
	bio_clear_polled(bio);
	WRITE_ONCE(bio->bi_cookie, BLK_QC_T_NONE);
	trace_bdev_filter_take(flt, bio);
	return true;
}
EXPORT_SYMBOL_GPL(bdev_filter_take);

/**
 * bdev_filter_endio - end a bio that was taken
 * @flt: filter that took it
 * @bio: the bio
 * @status: status it ends with
 *
 * Any context.  ->bi_end_io() of the bio runs inside of this, so no lock may be held
 * that it could need.  ->submit_bio() rather returns bdev_filter_end(), without
 * taking the bio: the core then ends it outside of the RCU read section.  Neither
 * @bio nor @flt may be used afterwards.
 */
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status)
{
	/* Part of the bio may have been split off and failed before. */
	if (status)
		bio->bi_status = status;
	trace_bdev_filter_finish(flt, bio);
	bio_endio(bio);
	bdev_filter_put(flt);
}
EXPORT_SYMBOL_GPL(bdev_filter_endio);

/* As bio_check_eod(): @sector, relative to @bdev, may be any number. */
static bool bdev_filter_beyond_end(struct bio *bio, struct block_device *bdev,
				   sector_t sector)
{
	sector_t max = bdev_nr_sectors(bdev);
	unsigned int nr = bio_sectors(bio);

	return nr && (nr > max || sector > max - nr);
}

/* The device, or the partition, may have shrunk while the filter had the bio. */
static bool bdev_filter_check_eod(struct bio *bio)
{
	struct block_device *bdev = bio->bi_bdev;
	sector_t sector = bio->bi_iter.bi_sector;

	/* These have no length, and drivers take the zone for granted. */
	if (op_is_zone_mgmt(bio_op(bio)) &&
	    bio_op(bio) != REQ_OP_ZONE_RESET_ALL &&
	    !bdev_zone_is_seq(bdev, sector))
		return false;
	if (bio_op(bio) == REQ_OP_ZONE_APPEND &&
	    !bdev_is_zone_start(bdev, sector))
		return false;
	return !bdev_filter_beyond_end(bio, bdev_whole(bdev), sector) &&
		!(bdev_is_partition(bdev) &&
		  bdev_filter_beyond_end(bio, bdev,
					 sector - bdev->bd_start_sect));
}

static void __bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio)
{
	struct block_device *bdev = bio->bi_bdev;

	/* By bdev_filter_retarget(), to another device: everything anew. */
	if (!bio_flagged(bio, BIO_FILTERED)) {
		if (blk_filter_too_far(bio))
			bio_io_error(bio);
		else
			submit_bio_noacct(bio);
		goto out;
	}
	/* By the same, on its partition: the sector was not looked at. */
	if (bdev_is_partition(bdev) && !bio_flagged(bio, BIO_REMAPPED) &&
	    !submit_bio_check(bio))
		goto out;
	if (!bdev_filter_check_eod(bio))
		bio_io_error(bio);
	else if (!flt->on_partition || !bdev_is_partition(bdev) ||
		 !__blk_filter_bio(bdev_whole(bdev), bio))
		submit_bio_noacct_nocheck(bio, false);
out:
	bdev_filter_put(flt);
}

/* Leave an owned bio to the filter's worker. */
static void bdev_filter_queue(struct bdev_filter *flt, struct bio_list *list,
			      struct bio *bio)
{
	unsigned long flags;

	/* It is not the submitter any more who would have to wait. */
	bio->bi_opf &= ~REQ_NOWAIT;

	spin_lock_irqsave(&flt->lock, flags);
	bio_list_add(list, bio);
	queue_work(flt->wq, &flt->work);
	spin_unlock_irqrestore(&flt->lock, flags);
}

/**
 * bdev_filter_resubmit - let a bio that was taken go on
 * @flt: filter that took it
 * @bio: the bio
 *
 * The bio goes on below @flt: to the filter of the whole disk if @flt is that
 * of a partition, then to the device.  If that cannot be done here, as inside of
 * ->submit_bio() or an interrupt, the filter's worker does it.  Neither @bio nor
 * @flt may be used afterwards.
 *
 * Any context.
 */
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio)
{
	trace_bdev_filter_resubmit(flt, bio);
	if (bio_in_atomic())
		bdev_filter_queue(flt, &flt->resubmitted, bio);
	else
		__bdev_filter_resubmit(flt, bio);
}
EXPORT_SYMBOL_GPL(bdev_filter_resubmit);

/**
 * bdev_filter_defer - hand a bio that was taken to ->process()
 * @flt: filter that took it
 * @bio: the bio
 *
 * Allocates nothing, so it works when memory is short.  A filter that is being
 * detached gets no more calls of ->process(), from before ->detached() on: the core
 * resubmits what is left.
 * Neither @bio nor @flt may be used afterwards but by ->process().
 *
 * Any context.
 */
void bdev_filter_defer(struct bdev_filter *flt, struct bio *bio)
{
	trace_bdev_filter_defer(flt, bio);
	bdev_filter_queue(flt, &flt->deferred, bio);
}
EXPORT_SYMBOL_GPL(bdev_filter_defer);

static void bdev_filter_work(struct work_struct *work)
{
	struct bdev_filter *flt = container_of(work, struct bdev_filter, work);
	unsigned int memflags = memalloc_noio_save();
	bool resubmit;
	struct bio *bio;

	for (;;) {
		spin_lock_irq(&flt->lock);
		resubmit = !bio_list_empty(&flt->resubmitted) ||
			flt->draining || !flt->ops->process;
		bio = bio_list_pop(&flt->resubmitted);
		if (!bio && (!flt->detaching || flt->draining))
			bio = bio_list_pop(&flt->deferred);
		spin_unlock_irq(&flt->lock);
		if (!bio)
			break;
		/* This may be the last bio: the release waits for us. */
		if (resubmit)
			__bdev_filter_resubmit(flt, bio);
		else
			flt->ops->process(flt, bio);
	}
	memalloc_noio_restore(memflags);
}

/*
 * Keep the device of a filter, and its driver, for longer than an RCU read
 * section.  NULL if the filter left its slot or the device is going away.
 */
static struct block_device *bdev_filter_pin(struct bdev_filter *flt)
{
	struct block_device *bdev;

	rcu_read_lock();
	bdev = rcu_dereference(flt->bdev);
	if (bdev && !try_module_get(bdev->bd_disk->fops->owner))
		bdev = NULL;
	if (bdev && !kobject_get_unless_zero(bdev_kobj(bdev))) {
		module_put(bdev->bd_disk->fops->owner);
		bdev = NULL;
	}
	rcu_read_unlock();
	return bdev;
}

/* May sleep. */
static void bdev_filter_unpin(struct block_device *bdev)
{
	struct module *owner = bdev->bd_disk->fops->owner;

	put_device(&bdev->bd_device);
	module_put(owner);
}

static void bdev_filter_io_work(struct work_struct *work)
{
	struct bdev_filter_io *io =
		container_of(work, struct bdev_filter_io, work);
	struct block_device *bdev = io->bdev;
	struct bdev_filter *flt = io->flt;

	/* After this the memory of @io may be gone. */
	bio_endio(io->bio);
	bdev_filter_unpin(bdev);
	bdev_filter_put(flt);
}

static void bdev_filter_io_end(struct bio *bio)
{
	struct bdev_filter_io *io = bio->bi_private;

	bio->bi_end_io = io->end_io;
	bio->bi_private = io->private;
	blk_filter_qos_done(bio);
	queue_work(bdev_filter_io_wq, &io->work);
}

/**
 * bdev_filter_submit_below - submit I/O of a filter's own to its device
 * @flt: the filter
 * @bio: a bio of the filter's own, with sectors relative to the device
 * @io: memory that stays valid until ->bi_end_io() of @bio is called
 *
 * The bio is not shown to @flt.  If that is the filter of a partition, the bio
 * is shown to the filter of the whole disk.  The device and @flt stay until the
 * bio has completed.  ->bi_end_io() is called in process context.
 *
 * Process context, may sleep.  From ->process() and ->detached(), where waiting for
 * the bio is possible too, or with a reference or a bio that was taken.
 *
 * Return: 0, -ENODEV if the device is being removed, -EINVAL if the bio goes beyond
 * the end of the device, is not made of whole logical blocks, or is empty and neither
 * a flush nor a zone operation.  If not 0, @bio is untouched.
 */
int bdev_filter_submit_below(struct bdev_filter *flt, struct bio *bio,
			     struct bdev_filter_io *io)
{
	struct block_device *bdev = bdev_filter_pin(flt);

	if (!bdev)
		return -ENODEV;
	/* Drivers take these for granted: a length of 0 is all of it to some. */
	if (bdev_filter_beyond_end(bio, bdev, bio->bi_iter.bi_sector) ||
	    !IS_ALIGNED(bio->bi_iter.bi_size, bdev_logical_block_size(bdev)) ||
	    (!bio->bi_iter.bi_size && !(bio->bi_opf & REQ_PREFLUSH) &&
	     !op_is_zone_mgmt(bio_op(bio)))) {
		bdev_filter_unpin(bdev);
		return -EINVAL;
	}
	refcount_inc(&flt->refs);
	/* Nobody polls for it. */
	bio_clear_polled(bio);
	io->flt = flt;
	io->bdev = bdev;
	io->bio = bio;
	io->end_io = bio->bi_end_io;
	io->private = bio->bi_private;
	INIT_WORK(&io->work, bdev_filter_io_work);
	bio->bi_end_io = bdev_filter_io_end;
	bio->bi_private = io;

	bio_set_dev(bio, bdev_whole(bdev));
	if (bdev_is_partition(bdev))
		bio->bi_iter.bi_sector += bdev->bd_start_sect;
	else
		bio_set_flag(bio, BIO_FILTERED);
	submit_bio_noacct(bio);
	return 0;
}
EXPORT_SYMBOL_GPL(bdev_filter_submit_below);

/**
 * bdev_filter_get_handle - keep the memory of a filter
 * @flt: the filter, from one of its methods, ->attach() included
 *
 * For bdev_filter_is_attached().  It keeps neither the filter on its device nor its
 * module.
 *
 * Any context.
 */
void bdev_filter_get_handle(struct bdev_filter *flt)
{
	refcount_inc(&flt->handles);
}
EXPORT_SYMBOL_GPL(bdev_filter_get_handle);

/**
 * bdev_filter_put_handle - undo bdev_filter_get_handle()
 * @flt: the filter
 *
 * Any context.
 */
void bdev_filter_put_handle(struct bdev_filter *flt)
{
	if (refcount_dec_and_test(&flt->handles))
		kfree_rcu(flt, rcu);
}
EXPORT_SYMBOL_GPL(bdev_filter_put_handle);

/**
 * bdev_filter_is_attached - whether a filter is on its device
 * @flt: the filter; the caller holds a handle
 *
 * True from attach, after ->attach(), until the moment when bios begin to pass it
 * by, which is before ->detached().
 *
 * Any context.
 */
bool bdev_filter_is_attached(struct bdev_filter *flt)
{
	struct block_device *bdev;
	bool attached;

	rcu_read_lock();
	bdev = rcu_dereference(flt->bdev);
	attached = bdev && rcu_access_pointer(bdev->bd_filter) == flt;
	rcu_read_unlock();
	return attached;
}
EXPORT_SYMBOL_GPL(bdev_filter_is_attached);

/* Undo what bdev_filter_create() did; the last that happens to a filter. */
static void bdev_filter_destroy(struct bdev_filter *flt)
{
	struct block_device *bdev;

	/* Nothing is queued any more, but ->process() may not be through. */
	destroy_workqueue(flt->wq);
	if (flt->ops->release)
		flt->ops->release(flt);
	bdev = rcu_replace_pointer(flt->bdev, NULL, true);
	if (bdev && flt->state == BDEV_FILTER_STATE_DETACHED)
		bdev_filter_unpin(bdev);
	blk_filter_destroy_hooks(flt);
	static_branch_dec(&blk_filter_key);
	free_percpu(flt->pcpu);
	module_put(flt->owner);
	/* Last, as who finds it there waits for this, with the module kept. */
	spin_lock(&bdev_filter_list_lock);
	list_del(&flt->entry);
	spin_unlock(&bdev_filter_list_lock);
	complete_all(&flt->released);
	bdev_filter_put_handle(flt);
}

static void bdev_filter_release_work(struct work_struct *work)
{
	bdev_filter_destroy(container_of(work, struct bdev_filter,
					 release_work));
}

/**
 * bdev_filter_get - get a reference to the filter of a device
 * @bdev: the device
 *
 * Any context.  The reference keeps the filter from being released and its
 * module from being unloaded, not from being detached.
 *
 * Return: the filter, or %NULL if the device has none.
 */
struct bdev_filter *bdev_filter_get(struct block_device *bdev)
{
	struct bdev_filter *flt;

	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt && !refcount_inc_not_zero(&flt->refs))
		flt = NULL;
	rcu_read_unlock();
	return flt;
}
EXPORT_SYMBOL_GPL(bdev_filter_get);

/**
 * bdev_filter_put - put a reference to a filter
 * @flt: the filter
 *
 * Any context.
 */
void bdev_filter_put(struct bdev_filter *flt)
{
	if (!refcount_dec_and_test(&flt->refs))
		return;
	/* The slot's reference was put by someone who had none: undo that. */
	if (WARN_ON_ONCE(READ_ONCE(flt->state) == BDEV_FILTER_STATE_ATTACHED))
		refcount_set(&flt->refs, 1);
	else
		/* Not ours: the method may wait for work that no rescuer does. */
		queue_work(system_dfl_wq, &flt->release_work);
}
EXPORT_SYMBOL_GPL(bdev_filter_put);

/*
 * The rest of a detach or removal, once @flt left its slot.  After the grace
 * period nobody is in ->submit_bio() any more, so what is owned can only become
 * less, and the reference of the slot can go.
 */
static void bdev_filter_cut_work(struct work_struct *work)
{
	struct bdev_filter *flt =
		container_of(work, struct bdev_filter, cut_work);

	synchronize_rcu();
	/*
	 * ->process() must not keep a bio that ->detached() does not know, nor run
	 * without the reference of the slot.
	 */
	spin_lock_irq(&flt->lock);
	flt->detaching = true;
	spin_unlock_irq(&flt->lock);
	flush_work(&flt->work);
	if (flt->ops->detached)
		flt->ops->detached(flt, flt->state == BDEV_FILTER_STATE_REMOVED ?
				   BDEV_FILTER_REMOVED : BDEV_FILTER_DETACHED);
	spin_lock_irq(&flt->lock);
	flt->draining = true;
	queue_work(flt->wq, &flt->work);
	spin_unlock_irq(&flt->lock);
	bdev_filter_put(flt);
}

static bool bdev_filter_publish(struct block_device *bdev,
				struct bdev_filter *flt)
{
	/* Before anyone can see it: it may be detached at once. */
	flt->state = BDEV_FILTER_STATE_ATTACHED;
	if (!unrcu_pointer(cmpxchg(&bdev->bd_filter, NULL,
				   RCU_INITIALIZER(flt))))
		return true;
	flt->state = BDEV_FILTER_STATE_NEW;
	return false;
}

static bool bdev_filter_unpublish(struct block_device *bdev,
				  struct bdev_filter *flt,
				  enum bdev_filter_state state)
{
	if (unrcu_pointer(cmpxchg(&bdev->bd_filter, RCU_INITIALIZER(flt),
				  NULL)) != flt)
		return false;
	WRITE_ONCE(flt->state, state);
	if (state == BDEV_FILTER_STATE_DETACHED) {
		__module_get(bdev->bd_disk->fops->owner);
		get_device(&bdev->bd_device);
	} else {
		RCU_INIT_POINTER(flt->bdev, NULL);
	}
	trace_bdev_filter_detach(flt);
	queue_work(bdev_filter_wq, &flt->cut_work);
	return true;
}

/*
 * BD_FILTERED sends a bio to the slow path: the bdev has a filter or its disk
 * has.  Bring all of a disk up to date after one of its slots changed, or before
 * that of @next gets a filter.
 */
static void blk_filter_update_flags(struct gendisk *disk,
				    struct block_device *next)
{
	bool all = next == disk->part0 ||
		rcu_access_pointer(disk->part0->bd_filter);
	struct block_device *part;
	unsigned long idx;

	lockdep_assert_held(&disk->filter_lock);

	rcu_read_lock();
	xa_for_each(&disk->part_tbl, idx, part) {
		if (all || part == next || rcu_access_pointer(part->bd_filter))
			bdev_set_flag(part, BD_FILTERED);
		else
			bdev_clear_flag(part, BD_FILTERED);
	}
	rcu_read_unlock();
}

/* A partition appeared: it is in part_tbl by now, so attach can't miss it. */
void blk_filter_add_partition(struct block_device *part)
{
	struct gendisk *disk = part->bd_disk;

	mutex_lock(&disk->filter_lock);
	blk_filter_update_flags(disk, NULL);
	mutex_unlock(&disk->filter_lock);
}

static void blk_filter_uevent(struct block_device *bdev,
			      struct bdev_filter *flt, const char *event)
{
	char name_var[sizeof("BLK_FILTER=") + BDEV_FILTER_NAME_LEN];
	char event_var[sizeof("BLK_FILTER_EVENT=") + 8];
	char *envp[] = { name_var, event_var, NULL };
	unsigned int memflags = memalloc_noio_save();

	/* In the order of what happens.  A removal may wait for the lock. */
	lockdep_assert_held(&bdev->bd_disk->filter_lock);

	snprintf(name_var, sizeof(name_var), "BLK_FILTER=%s", flt->name);
	snprintf(event_var, sizeof(event_var), "BLK_FILTER_EVENT=%s", event);
	kobject_uevent_env(bdev_kobj(bdev), KOBJ_CHANGE, envp);
	memalloc_noio_restore(memflags);
}

/*
 * Take @flt out of the slot of @bdev, unless somebody else did; %NULL stands for
 * whatever is there.  For a detach the caller has pinned @bdev.
 */
static void bdev_filter_cut(struct block_device *bdev, struct bdev_filter *flt,
			    enum bdev_filter_state state)
{
	struct gendisk *disk = bdev->bd_disk;
	bool won;

	mutex_lock(&disk->filter_lock);
	if (!flt)
		flt = rcu_dereference_protected(bdev->bd_filter,
						lockdep_is_held(&disk->filter_lock));
	/* Nobody but us takes it out of its slot, so it has its own handle. */
	if (flt)
		refcount_inc(&flt->handles);
	won = flt && bdev_filter_unpublish(bdev, flt, state);
	if (won) {
		blk_filter_update_flags(disk, NULL);
		blk_filter_uevent(bdev, flt, "detach");
	}
	mutex_unlock(&disk->filter_lock);

	if (flt)
		bdev_filter_put_handle(flt);
}

/*
 * Cut the filter loose from a device that is going away.
 *
 * The device is unhashed or dead, so no filter can be attached to it any more,
 * see blk_filter_may_attach().  Called under disk->open_mutex: the grace period
 * and the filter's own clean-up are left to the workqueue, and nothing here
 * waits for them.
 */
void blk_filter_remove(struct block_device *bdev)
{
	bdev_filter_cut(bdev, NULL, BDEV_FILTER_STATE_REMOVED);
}

/*
 * Last resort: blk_filter_remove() should have done this.  The disk may be gone
 * by now, so look at nothing but the slot.
 */
void blk_filter_evict(struct block_device *bdev)
{
	struct bdev_filter *flt = rcu_access_pointer(bdev->bd_filter);

	if (likely(!flt))
		return;
	WARN_ONCE(1, "filter attached to an evicted block device\n");
	bdev_filter_unpublish(bdev, flt, BDEV_FILTER_STATE_REMOVED);
}

/*
 * Detach @flt from its device, unless somebody else did, and wait until it has
 * been released.  If @killable, a fatal signal ends the wait, not the detach.  The
 * caller holds a handle.
 */
int __bdev_filter_detach(struct bdev_filter *flt, bool killable)
{
	struct block_device *bdev = bdev_filter_pin(flt);
	bool told = false;
	long ret;

	/* If the device is going away, removal will do it. */
	if (bdev) {
		bdev_filter_cut(bdev, flt, BDEV_FILTER_STATE_DETACHED);
		bdev_filter_unpin(bdev);
	}

	for (;;) {
		ret = killable ?
			wait_for_completion_killable_timeout(&flt->released,
							     BDEV_FILTER_WAIT) :
			wait_for_completion_timeout(&flt->released,
						    BDEV_FILTER_WAIT);
		if (ret > 0)
			return 0;
		if (ret < 0)
			return -EINTR;
		if (!told)
			pr_warn("%s: detach of %s waits for %u bios\n",
				flt->dev_name, flt->name,
				refcount_read(&flt->refs));
		told = true;
	}
}

/* In one of its methods? */
static bool bdev_filter_in_method(struct bdev_filter *flt)
{
	struct work_struct *work = current_work();

	return blk_filter_atomic() ||
		(work && (work == &flt->work || work == &flt->cut_work ||
			  work == &flt->release_work));
}

/**
 * bdev_filter_detach - end an attachment made by bdev_filter_attach()
 * @flt: the filter
 *
 * When this returns the filter is gone: it sees no more bios, those it owned are
 * finished, it has been released, and its module can be unloaded.  It does not
 * matter whether user space or the removal of its device was faster.  A fatal
 * signal ends the wait, except in the init function of the filter's module; the
 * filter then goes away by itself when it has finished its last bio.  @flt may not be
 * used afterwards.
 *
 * Process context, may sleep.  Not from the filter's own methods, nor from what is
 * called on completion of a bio that it armed or of its own: that would wait for
 * itself.
 */
void bdev_filter_detach(struct bdev_filter *flt)
{
	bool killable = false;

	if (WARN_ON_ONCE(READ_ONCE(flt->state) == BDEV_FILTER_STATE_NEW) ||
	    WARN_ON_ONCE(bdev_filter_in_method(flt)))
		return;
	/* A module whose init fails goes whoever has a reference to it. */
	if (refcount_inc_not_zero(&flt->refs)) {
		killable = bdev_filter_owner_is_live(flt->ops);
		bdev_filter_put(flt);
	}
	__bdev_filter_detach(flt, killable);
	bdev_filter_put_handle(flt);
}
EXPORT_SYMBOL_GPL(bdev_filter_detach);

/* A module goes: detach what its init function attached before it failed. */
void blk_filter_detach_module(struct module *module)
{
	struct bdev_filter *flt;

again:
	spin_lock(&bdev_filter_list_lock);
	list_for_each_entry(flt, &bdev_filter_list, entry) {
		if (flt->owner != module)
			continue;
		/* On the list it has its own handle. */
		refcount_inc(&flt->handles);
		spin_unlock(&bdev_filter_list_lock);
		/* Else it is about to be released, with its module put already. */
		if (READ_ONCE(flt->state) == BDEV_FILTER_STATE_ATTACHED)
			pr_warn("%s: %s was not detached\n", flt->dev_name,
				flt->name);
		__bdev_filter_detach(flt, false);
		bdev_filter_put_handle(flt);
		goto again;
	}
	spin_unlock(&bdev_filter_list_lock);
}

/*
 * Not on a device that is going away: unhashing comes first in every removal,
 * and blk_filter_remove() takes filter_lock after it.  Not on the hidden path
 * devices of a multipath device either: I/O is submitted to the head.
 */
static bool blk_filter_may_attach(struct block_device *bdev)
{
	struct gendisk *disk = bdev->bd_disk;

	lockdep_assert_held(&disk->filter_lock);

	return !inode_unhashed(bdev->bd_mapping->host) && disk_live(disk) &&
		!test_bit(GD_DEAD, &disk->state) &&
		!(disk->flags & GENHD_FL_HIDDEN);
}

/* Encrypted data, protected data and zones come with rules of their own. */
static bool blk_filter_supported(struct block_device *bdev, unsigned int flags)
{
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	if (bdev_get_queue(bdev)->crypto_profile &&
	    !(flags & BDEV_FILTER_CRYPTO))
		return false;
#endif
	return (!bdev_is_zoned(bdev) || (flags & BDEV_FILTER_ZONED)) &&
		(!blk_get_integrity(bdev->bd_disk) ||
		 (flags & BDEV_FILTER_INTEGRITY));
}

/* Why @bdev can't have a filter of this kind: it has one. */
static int bdev_filter_check_slot(struct block_device *bdev,
				  const struct bdev_filter_operations *ops)
{
	struct bdev_filter *flt;
	int ret = 0;

	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt)
		ret = strcmp(flt->name, ops->name) ? -EBUSY : -EALREADY;
	rcu_read_unlock();
	return ret;
}

static struct bdev_filter *
bdev_filter_create(struct block_device *bdev,
		   const struct bdev_filter_operations *ops, void *data,
		   const char *options)
{
	struct bdev_filter *flt;
	int ret;

	/* It is registered but being unloaded: as good as not there. */
	if (!try_module_get(ops->owner))
		return ERR_PTR(-ENOENT);

	ret = -ENOMEM;
	flt = kzalloc(ops->size, GFP_KERNEL);
	if (!flt)
		goto out_put_module;
	refcount_set(&flt->handles, 1);
	flt->pcpu = alloc_percpu(struct bdev_filter_pcpu);
	if (!flt->pcpu)
		goto out_free;

	flt->ops = ops;
	flt->owner = ops->owner;
	INIT_LIST_HEAD(&flt->entry);
	strscpy(flt->name, ops->name);
	snprintf(flt->dev_name, sizeof(flt->dev_name), "%pg", bdev);
	RCU_INIT_POINTER(flt->bdev, bdev);
	refcount_set(&flt->refs, 1);
	flt->on_partition = bdev_is_partition(bdev);
	spin_lock_init(&flt->lock);
	init_completion(&flt->released);
	INIT_WORK(&flt->work, bdev_filter_work);
	INIT_WORK(&flt->cut_work, bdev_filter_cut_work);
	INIT_WORK(&flt->release_work, bdev_filter_release_work);

	/* Of its own: with a shared one stacked filters wait for each other. */
	flt->wq = alloc_ordered_workqueue("blkf-%s", WQ_MEM_RECLAIM,
					  flt->dev_name);
	if (!flt->wq)
		goto out_free_pcpu;
	if (blk_filter_create_hooks(flt))
		goto out_free_wq;

	if (ops->attach) {
		ret = ops->attach(flt, data, options);
		if (ret)
			goto out_free_hooks;
	}

	/* Before it is published: a filter in a slot is never overlooked. */
	static_branch_inc(&blk_filter_key);
	return flt;

out_free_hooks:
	blk_filter_destroy_hooks(flt);
out_free_wq:
	destroy_workqueue(flt->wq);
out_free_pcpu:
	free_percpu(flt->pcpu);
out_free:
	/* ->attach() may have got handles, and put them, or not yet. */
	RCU_INIT_POINTER(flt->bdev, NULL);
	bdev_filter_put_handle(flt);
out_put_module:
	module_put(ops->owner);
	return ERR_PTR(ret);
}

/**
 * bdev_filter_attach - attach a filter to a device
 * @bdev: the device; the caller keeps it open until this returns
 * @ops: kind of filter; it need not be registered
 * @data: passed to its ->attach()
 * @options: passed to its ->attach(), or %NULL
 *
 * The filter stays on the device until bdev_filter_detach(), until user space
 * detaches it, or until the device is removed.  It pins its module, so a module
 * cannot wait for its exit to detach it.  If the init function of the module fails,
 * what it has attached is detached before the module goes; the memory of the filter
 * is lost then.
 *
 * Process context, may sleep.
 *
 * Return: the filter, to be given to bdev_filter_detach() once, or -EALREADY or
 * -EBUSY if there is a filter of the same or another kind on the device already,
 * -EOPNOTSUPP if the filter does not cope with the device, -ENODEV if the device
 * is being removed, -EINVAL for options that the filter does not take, -ENOENT if
 * the module is being unloaded, -ENOMEM, or an error of its ->attach().
 */
struct bdev_filter *bdev_filter_attach(struct block_device *bdev,
				       const struct bdev_filter_operations *ops,
				       void *data, const char *options)
{
	struct gendisk *disk = bdev->bd_disk;
	sector_t nr_sectors = bdev_nr_sectors(bdev);
	struct bdev_filter *flt;
	int ret;

	if (options && *options && !(ops->flags & BDEV_FILTER_OPTIONS))
		return ERR_PTR(-EINVAL);
	ret = bdev_filter_check_slot(bdev, ops);
	if (ret)
		return ERR_PTR(ret);

	flt = bdev_filter_create(bdev, ops, data, options ?: "");
	if (IS_ERR(flt))
		return flt;

	mutex_lock(&disk->filter_lock);
	refcount_inc(&flt->handles);
	if (!blk_filter_may_attach(bdev))
		ret = -ENODEV;
	else if (!blk_filter_supported(bdev, ops->flags))
		ret = -EOPNOTSUPP;
	if (ret)
		goto out_unlock;
	/* First: no bio passes by a filter that is attached. */
	blk_filter_update_flags(disk, bdev);
	if (bdev_filter_publish(bdev, flt)) {
		spin_lock(&bdev_filter_list_lock);
		list_add(&flt->entry, &bdev_filter_list);
		spin_unlock(&bdev_filter_list_lock);
		trace_bdev_filter_attach(flt);
		blk_filter_uevent(bdev, flt, "attach");
	} else {
		ret = bdev_filter_check_slot(bdev, ops) ?: -EBUSY;
		blk_filter_update_flags(disk, NULL);
	}
out_unlock:
	mutex_unlock(&disk->filter_lock);

	if (ret) {
		bdev_filter_put_handle(flt);
		bdev_filter_destroy(flt);
		return ERR_PTR(ret);
	}
	/* Set while ->attach() looked at it, by someone who did not see @flt? */
	if (bdev_nr_sectors(bdev) != nr_sectors)
		__blk_filter_resized(bdev);
	return flt;
}
EXPORT_SYMBOL_GPL(bdev_filter_attach);

static int __init blk_filter_init(void)
{
	bdev_filter_wq = alloc_workqueue("blk-filter",
					 WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	bdev_filter_io_wq = alloc_workqueue("blk-filter-io",
					    WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!bdev_filter_wq || !bdev_filter_io_wq)
		panic("Failed to create the blk-filter workqueues\n");
	return 0;
}
subsys_initcall(blk_filter_init);
