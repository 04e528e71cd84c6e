// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: what happens to bios that a filter lets go on.
 *
 * A hook takes the place of ->bi_end_io and ->bi_private of a bio, until that
 * completes.  The bio, and only the bio, leads to its hook.  The hook holds a
 * reference of its filter, so the filter, its mempool of hooks and its module
 * stay until the function of the filter has returned here.
 *
 * A hook that is free lies on a list of the CPU that freed it.  Only that CPU
 * touches the list, with interrupts off, until the release takes them all: by then
 * nothing is armed any more.
 */
#include <linux/blk-filter.h>
#include "blk.h"
#include "blk-filter.h"
#include "blk-throttle.h"

/* Hooks that are there even if memory is short. */
#define BDEV_FILTER_HOOKS	16

/* Hooks that each CPU keeps for its next bios. */
#define BDEV_FILTER_CACHED	32

/* How often a bio may be sent to another device. */
#define BDEV_FILTER_HOPS	8

int blk_filter_create_hooks(struct bdev_filter *flt)
{
	flt->hooks = mempool_create_kmalloc_pool(BDEV_FILTER_HOOKS,
						 sizeof(struct bdev_filter_hook));
	return flt->hooks ? 0 : -ENOMEM;
}

void blk_filter_destroy_hooks(struct bdev_filter *flt)
{
	struct bdev_filter_hook *hook;
	int cpu;

	for_each_possible_cpu(cpu) {
		struct bdev_filter_pcpu *pcpu = per_cpu_ptr(flt->pcpu, cpu);

		while ((hook = pcpu->hooks)) {
			pcpu->hooks = hook->bi_private;
			mempool_free(hook, flt->hooks);
		}
	}
	mempool_destroy(flt->hooks);
}

static struct bdev_filter_hook *bdev_filter_alloc_hook(struct bdev_filter *flt)
{
	struct bdev_filter_pcpu *pcpu;
	struct bdev_filter_hook *hook;
	unsigned long flags;
	bool wait;

	local_irq_save(flags);
	pcpu = this_cpu_ptr(flt->pcpu);
	hook = pcpu->hooks;
	if (hook) {
		pcpu->hooks = hook->bi_private;
		pcpu->nr_hooks--;
	}
	local_irq_restore(flags);
	if (hook)
		return hook;

	/*
	 * Only ->process() can wait until another bio completes; but not what it calls,
	 * such as ->submit_bio() for a bio that came back to this device: that is called
	 * by a stacking driver, which has a bio_list.
	 */
	wait = current_work() == &flt->work && !current->bio_list &&
		!blk_filter_atomic();
	return mempool_alloc(flt->hooks, wait ? GFP_NOIO : GFP_NOWAIT);
}

/*
 * Keep it for the next bio on this CPU, which is cheaper than allocating one.  But
 * not if the mempool has given out some of its reserve, as someone may wait for
 * that.
 */
static void bdev_filter_free_hook(struct bdev_filter *flt,
				  struct bdev_filter_hook *hook)
{
	struct bdev_filter_pcpu *pcpu;
	unsigned long flags;
	bool keep;

	local_irq_save(flags);
	pcpu = this_cpu_ptr(flt->pcpu);
	keep = pcpu->nr_hooks < BDEV_FILTER_CACHED &&
		mempool_is_saturated(flt->hooks);
	if (keep) {
		hook->bi_private = pcpu->hooks;
		pcpu->hooks = hook;
		pcpu->nr_hooks++;
	}
	local_irq_restore(flags);
	if (!keep)
		mempool_free(hook, flt->hooks);
}

static void bdev_filter_hook_end(struct bio *bio)
{
	struct bdev_filter_hook *hook = bio->bi_private;
	struct bdev_filter *flt = hook->flt;
	blk_status_t status = bio->bi_status;

	bio->bi_end_io = hook->bi_end_io;
	bio->bi_private = hook->bi_private;
	blk_filter_qos_done(bio);
	if (hook->end_io)
		hook->end_io(flt, bio, hook);
	/* bio_endio() follows the state of zones: not to one they are not in. */
	if (unlikely(status) && op_is_zone_mgmt(bio_op(bio)))
		bio->bi_status = status;
	bdev_filter_free_hook(flt, hook);
	/* Not ->bi_end_io(): for a chained bio that is only a tag. */
	bio_endio(bio);
	bdev_filter_put(flt);
}

/* For a function that may sleep: memory must not wait for this very bio. */
static void bdev_filter_hook_end_in_task(struct bio *bio)
{
	struct bdev_filter_hook *hook = bio->bi_private;
	unsigned int memflags = memalloc_noio_save();

	if (hook->in_task)
		bio_clear_flag(bio, BIO_COMPLETE_IN_TASK);
	bdev_filter_hook_end(bio);
	memalloc_noio_restore(memflags);
}

/* For bdev_filter_arm(), with a function, and bdev_filter_retarget(), without. */
static struct bdev_filter_hook *
bdev_filter_hook(struct bdev_filter *flt, struct bio *bio,
		 bdev_filter_end_io_t *end_io)
{
	struct bdev_filter_hook *hook;

	if (bdev_filter_protected(flt, bio))
		return NULL;
	hook = bdev_filter_alloc_hook(flt);
	if (!hook)
		return NULL;

	refcount_inc(&flt->refs);
	hook->flt = flt;
	hook->iter = bio->bi_iter;
	hook->sector = bdev_filter_sector(flt, bio);
	hook->end_io = end_io;
	hook->bi_end_io = bio->bi_end_io;
	hook->bi_private = bio->bi_private;
	bio->bi_end_io = bdev_filter_hook_end;
	bio->bi_private = hook;
	return hook;
}

/**
 * bdev_filter_arm - have a function called when a bio completes
 * @flt: the filter
 * @bio: a bio that it passes or resubmits right after this
 * @end_io: the function; called in any context, also in hard interrupt
 *
 * From ->submit_bio() this does not wait for memory and may fail; the bio can
 * then be deferred.  From ->process(), with no spinlock held and outside of RCU read
 * sections, it waits for the completion of another bio if it has to, and does not
 * fail.
 *
 * Return: what @end_io gets, with @data to be filled in by the caller; %NULL if
 * there is no memory, or if the filter may not do this to the bio, see
 * bdev_filter_protected().
 */
struct bdev_filter_hook *bdev_filter_arm(struct bdev_filter *flt,
					 struct bio *bio,
					 bdev_filter_end_io_t *end_io)
{
	return bdev_filter_hook(flt, bio, end_io);
}
EXPORT_SYMBOL_GPL(bdev_filter_arm);

/**
 * bdev_filter_arm_in_task - have a function that may sleep called on completion
 * @flt: the filter
 * @bio: a bio that it passes or resubmits right after this
 * @end_io: the function; called in process context
 *
 * @end_io is called where the bio completes if that is process context: inside of
 * bdev_filter_resubmit() for some drivers, so with the locks that are held there.
 * Else a worker does it that other completions of this CPU wait for, without I/O for
 * memory: it should not take long, and must not wait for I/O.
 *
 * Otherwise as bdev_filter_arm().
 */
struct bdev_filter_hook *bdev_filter_arm_in_task(struct bdev_filter *flt,
						 struct bio *bio,
						 bdev_filter_end_io_t *end_io)
{
	struct bdev_filter_hook *hook = bdev_filter_hook(flt, bio, end_io);

	if (hook) {
		/* Who polls expects the completion where it polls. */
		bio_clear_polled(bio);
		/* The flag may be the submitter's, who may submit the bio again. */
		hook->in_task = !bio_flagged(bio, BIO_COMPLETE_IN_TASK);
		bio_set_flag(bio, BIO_COMPLETE_IN_TASK);
		bio->bi_end_io = bdev_filter_hook_end_in_task;
	}
	return hook;
}
EXPORT_SYMBOL_GPL(bdev_filter_arm_in_task);

/* Whether filters have sent a bio to another place too often. */
bool blk_filter_too_far(const struct bio *bio)
{
	bio_end_io_t *end_io = bio->bi_end_io;
	void *private = bio->bi_private;
	int hops = 0;

	/* Each time there is a hook without a function, on top of those before. */
	while (end_io == bdev_filter_hook_end ||
	       end_io == bdev_filter_hook_end_in_task) {
		const struct bdev_filter_hook *hook = private;

		hops += !hook->end_io;
		end_io = hook->bi_end_io;
		private = hook->bi_private;
	}
	return hops > BDEV_FILTER_HOPS;
}

/* A filter wants the bio to go to another place; true if it does not go on here. */
bool blk_filter_retarget(struct bio *bio)
{
	while (!blk_filter_too_far(bio)) {
		struct block_device *bdev = bio->bi_bdev;
		enum bdev_filter_verdict verdict;

		/*
		 * What submit_bio_noacct() does, without the recursion.  One that stays
		 * on its device has been throttled there.
		 */
		if (!submit_bio_check(bio) ||
		    (!bio_flagged(bio, BIO_FILTERED) && blk_throtl_bio(bio)))
			return true;
		if (!bdev_test_flag(bdev, BD_FILTERED))
			return false;
		/* Marked: sent to the device of the filter, so on below that. */
		if (bio_flagged(bio, BIO_FILTERED)) {
			if (!bdev_is_partition(bdev))
				return false;
			bdev = bdev_whole(bdev);
		}
		verdict = blk_filter_call(bdev, bio);
		if (verdict != BDEV_FILTER_RETARGET)
			return verdict;
	}
	bio_io_error(bio);
	return true;
}

/**
 * bdev_filter_retarget - send a bio somewhere else
 * @flt: the filter
 * @bio: the bio
 * @bdev: a device that the filter keeps open until its ->release()
 * @sector: sector of @bdev, in units of 512 bytes, where it goes
 *
 * From ->submit_bio(), which returns %BDEV_FILTER_RETARGET after it, or from
 * ->process(), which resubmits the bio after it.  The bio then goes through the
 * checks and filters of @bdev, as if it had been submitted there; if @bdev is the
 * device of the filter it goes below it.  A bio that was sent to another device
 * too often (8 times) fails.  The filter is not released before the bio completes.
 *
 * Return: false if there is no memory, or if the filter may not do this to the
 * bio, see bdev_filter_protected().  From ->process() only the latter.
 */
bool bdev_filter_retarget(struct bdev_filter *flt, struct bio *bio,
			  struct block_device *bdev, sector_t sector)
{
	if (!bdev_filter_hook(flt, bio, NULL))
		return false;
	bio_clear_polled(bio);
	bio_set_dev(bio, bdev);
	bio->bi_iter.bi_sector = sector;
	/* Also if it came to a disk through a partition, or goes back there. */
	if (rcu_access_pointer(flt->bdev) == bdev)
		bio_set_flag(bio, BIO_FILTERED);
	else
		bio_clear_flag(bio, BIO_FILTERED);
	return true;
}
EXPORT_SYMBOL_GPL(bdev_filter_retarget);
