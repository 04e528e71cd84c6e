// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: see, hold or refuse the I/O of a device in use.
 *
 * See Documentation/block/blkfilter.rst for how to use and write one.
 *
 * Lifetime
 * --------
 *
 * bdev->bd_filter, the slot, points at the filter of a device.  Attach publishes the
 * filter there, detach, removal or evict takes it back.  All of them use cmpxchg(),
 * so a filter leaves its slot exactly once.  The submission path reads the slot under
 * rcu_read_lock() and calls ->submit_bio there: it takes no reference and writes only
 * per-CPU counters.  The pointer stays good until the reference of the slot is
 * dropped, which is always after a grace period.
 *
 * core->refs counts what keeps a filter working: the slot, each bio it took, each
 * hook, and submitters that wait for it.  Taking is a plain increment: it happens
 * inside ->submit_bio, where the slot's reference is there, or on behalf of a bio that
 * was taken.  The last put queues
 * release_work, never releases in place, as the put may come from a completion in
 * interrupt context.  The release ends the filter's own workqueues, so that no method
 * runs, and drops the module reference that attach took: the core does that, so no
 * module text runs after it.  An attach that fails goes the same way.
 *
 * core->handles counts what keeps only the memory: one for the filter itself
 * until it is released, and one for each who may still detach it or waits for
 * its release.  The memory is freed by RCU.
 *
 * bdev_filter_list has the filters from when they are published until they are
 * released, for modules that fail to initialize: those go whoever has a reference to
 * them, so their filters are detached, and waited for, before.
 *
 * core->bdev leads from a filter to its device for as long as the filter is in its
 * slot: whoever empties the slot clears core->bdev.  It is read under rcu_read_lock()
 * only.  The memory of block_device and gendisk is freed by RCU after evict, and the
 * driver's by module unloading, which waits for a grace period too, after
 * del_gendisk() emptied the slot.  So who still sees the pointer can look at the
 * device; who needs the device for longer uses bdev_filter_pin(), for a moment, which
 * fails for a device that is going away.
 *
 * A filter out of its slot knows no device, so it does not matter what became of that.
 * What it may still do needs none: a bio that it owns has a submitter, and that has
 * the device open.  Own I/O is done on behalf of such a bio, or of a file that the
 * core has opened.  Drivers take "no opener" for "no I/O".
 *
 * How a filter goes
 * -----------------
 *
 * First it leaves: bdev_filter_request_leave().  After a grace period nothing new
 * can be taken, deferred bios go on without ->process, and ->let_go finishes what the
 * filter keeps.  Then it is cut: bdev_filter_start_cut().  The slot is empty, and after
 * a grace period ->detached is called and the reference of the slot is dropped.
 *
 * A detach does both at once.  A removal says that the disk is going before it takes
 * open_mutex, as somebody may hold that mutex who waits for a bio that a filter
 * keeps; the filter then sees the last bios of the device without taking any.  The
 * removal empties the slots when the disk is dead, and waits for nothing.
 *
 * On a zoned device the writes that a filter has must not be overtaken.  So from
 * the moment when a filter that took some begins to leave until the last of those is
 * submitted the core holds up who submits more: core->gated.  These tasks wait with
 * their bios, so no list grows, and the writes of each stay in order.
 *
 * Bios that a filter owns
 * -----------------------
 *
 * core->process_lane and the other lanes hold them, linked through bi_next,
 * under core->lock.  Work is queued under that lock as well: after it was dropped the
 * worker may finish the last bio, and with it the filter.
 *
 * No bio is submitted in the context of who resubmits it, as that may be a completion
 * with the tag, the plug or the bio_list that the bio needs.  The bio that ->process
 * was called for is submitted by the same worker when ->process returned.  That worker
 * must not sleep in rq_qos on behalf of one control group while others have bios there,
 * so the bios of each group but the root, which is not limited, and what is resubmitted
 * elsewhere have a lane with a work item of its own.  Writes to zoned devices all have
 * the same lane: one work item keeps their order.  The workqueues are the filter's own:
 * with shared ones stacked filters would wait for each other when there is memory for
 * the rescuer only.
 *
 * A submitter whose bio was taken waits while there are more than
 * BDEV_FILTER_MAX_QUEUED in the lane of its group, or for ->process: it is throttled as
 * by a queue that is full.
 *
 * A queue freeze plays no part in any of this: it does not drain the hook, and
 * for devices with a ->submit_bio method it never did.
 *
 * Lock order
 * ----------
 *
 * bdev_filter_mutex in blk-filter-sysfs.c: the kinds that are registered.
 * disk->filter_lock: the slots of a disk and its partitions, core->state, BD_FILTERED,
 *	and the check that the device is not going away.
 *   core->lock: the lists of a filter, and how far it has gone.
 *   bdev_filter_list_lock
 *
 * The first two are mutexes, not nested in each other, the others spinlocks, and
 * nothing else nests in them.
 * The core calls no method of a filter with any held, but allocates for uevents,
 * without I/O, with the second held.  Removal holds
 * disk->open_mutex and takes filter_lock only; bd_holder_lock has nothing to do
 * with filters.  The sysfs attribute gives up its active reference before it waits
 * for a module or for a release, so device_del() waits for neither.
 */
#define pr_fmt(fmt) "blk-filter: " fmt

#include <linux/blk-filter.h>
#include <linux/blk-integrity.h>
#include <linux/file.h>
#include <linux/percpu.h>
#include <trace/events/block.h>
#include "blk.h"
#include "blk-cgroup.h"
#include "blk-filter.h"
#include "blk-throttle.h"

#define CREATE_TRACE_POINTS
#include <trace/events/bdev_filter.h>

/* Say how a detach is going after this long. */
#define BDEV_FILTER_WAIT	(10 * HZ)

/* Submitters wait while more of their bios are queued: some queues' worth of them. */
#define BDEV_FILTER_MAX_QUEUED	1024

/* How many bios are submitted for each of them that is woken. */
#define BDEV_FILTER_WAKE	64

/* Control groups that are kept apart; those beyond share a lane with others. */
#define BDEV_FILTER_MAX_LANES	32

/* A verdict of the core's own: the bio waits for what the filter has. */
#define BDEV_FILTER_GATED	((enum bdev_filter_verdict)4)

/* With BDEV_FILTER_TAKEN: the index of the lane in which the submitter has to wait. */
#define BDEV_FILTER_LANE_SHIFT	8
#define BDEV_FILTER_VERDICT	((1 << BDEV_FILTER_LANE_SHIFT) - 1)

DEFINE_STATIC_KEY_FALSE(blk_filter_key);

#ifndef CONFIG_PREEMPT_COUNT
DEFINE_PER_CPU(unsigned int, blk_filter_depth);
#endif

DEFINE_PER_CPU(unsigned int, blk_filter_ending);

static LIST_HEAD(bdev_filter_list);
static DEFINE_SPINLOCK(bdev_filter_list_lock);

static __always_inline enum bdev_filter_verdict
bdev_filter_call(struct bdev_filter_core *core, struct bio *bio)
{
	bdev_filter_submit_t *submit_bio;

	if (!core)
		return BDEV_FILTER_PASS;
	this_cpu_inc(core->pcpu->seen);
	submit_bio = READ_ONCE(core->submit_bio);
	return submit_bio(core->flt, bio);
}

static const void *bdev_filter_group(struct blkcg_gq *blkg)
{
#ifdef CONFIG_BLK_CGROUP
	/* The root is not limited, and has no parent. */
	if (blkg && blkg->parent)
		return blkg;
#endif
	return NULL;
}

static struct bdev_filter_lane *
bdev_filter_lane_of(struct bdev_filter_core *core, const void *group)
{
	struct bdev_filter_lane *lane;

	lockdep_assert_held(&core->lock);

	list_for_each_entry(lane, &core->lanes, entry)
		if (lane->group == group)
			return lane;
	return &core->lane;
}

static struct bdev_filter_lane *
bdev_filter_lane_at(struct bdev_filter_core *core, unsigned int index)
{
	struct bdev_filter_lane *lane, *found = &core->lane;
	unsigned long flags;

	if (index == core->process_lane.index)
		return &core->process_lane;
	spin_lock_irqsave(&core->lock, flags);
	list_for_each_entry(lane, &core->lanes, entry)
		if (lane->index == index)
			found = lane;
	spin_unlock_irqrestore(&core->lock, flags);
	return found;
}

/* Where a submitter has to wait, if it has to; bdev_filter_throttle() undoes this. */
static struct bdev_filter_lane *
bdev_filter_full_lane(struct bdev_filter_core *core, struct blkcg_gq *blkg)
{
	struct bdev_filter_lane *lane;
	unsigned long flags;

	/* Most of the time there are not that many in all. */
	if (likely(READ_ONCE(core->queued) <= BDEV_FILTER_MAX_QUEUED))
		return NULL;
	spin_lock_irqsave(&core->lock, flags);
	lane = &core->process_lane;
	if (lane->nr <= BDEV_FILTER_MAX_QUEUED)
		lane = bdev_filter_lane_of(core, bdev_filter_group(blkg));
	if (lane->nr <= BDEV_FILTER_MAX_QUEUED)
		lane = NULL;
	else
		lane->waiters++;
	spin_unlock_irqrestore(&core->lock, flags);
	return lane;
}

/* Exclusive, one at a time: who goes on wakes the next. */
static void bdev_filter_throttle(struct bdev_filter_lane *lane)
{
	/* Not who brings others' bios on their way, or these. */
	if (!current_is_workqueue_rescuer() && !blk_throtl_is_dispatching() &&
	    current_work() != &lane->core->process_lane.work) {
		(void)___wait_event(lane->wait,
				    READ_ONCE(lane->nr) <= BDEV_FILTER_MAX_QUEUED,
				    TASK_UNINTERRUPTIBLE, 1, 0, io_schedule());
		wake_up(&lane->wait);
	}
	spin_lock_irq(&lane->core->lock);
	lane->waiters--;
	spin_unlock_irq(&lane->core->lock);
}

/*
 * A filter ends a bio, which was not traced: see bio_clear_traced().  The state of a zone
 * follows what the device has done.
 */
static void bdev_filter_set_ended(struct bio *bio)
{
	bio_clear_flag(bio, BIO_FILTERED);
	if (unlikely(op_is_zone_mgmt(bio_op(bio)) && !bio->bi_status))
		bio->bi_status = BLK_STS_IOERR;
}

/* The end of the RCU read section for all but the usual verdict. */
static noinline enum bdev_filter_verdict
bdev_filter_finish(struct bdev_filter_core *core, struct bio *bio,
		   enum bdev_filter_verdict verdict)
	__releases_shared(RCU)
{
	struct bdev_filter_lane *lane = NULL;
	bool wait;

	if (unlikely(verdict >> BDEV_FILTER_LANE_SHIFT))
		lane = bdev_filter_lane_at(core,
					   verdict >> BDEV_FILTER_LANE_SHIFT);
	verdict &= BDEV_FILTER_VERDICT;
	wait = verdict == BDEV_FILTER_GATED && !(bio->bi_opf & REQ_NOWAIT);
	/* The reference of the slot is there until the grace period ends. */
	if (unlikely(wait || lane))
		refcount_inc(&core->refs);
	if (verdict == BDEV_FILTER_END) {
		bdev_filter_set_ended(bio);
		trace_bdev_filter_finish(core->flt, bio);
	}
	blk_filter_leave();
	rcu_read_unlock();

	/* ->bi_end_io may not expect to be in an RCU read section. */
	if (verdict == BDEV_FILTER_END)
		bio_endio(bio);
	if (verdict == BDEV_FILTER_GATED && !wait) {
		bio_clear_flag(bio, BIO_FILTERED);
		bio_wouldblock_error(bio);
		return BDEV_FILTER_END;
	}
	if (wait)
		wait_event(core->wait, !READ_ONCE(core->gated));
	if (lane)
		bdev_filter_throttle(lane);
	if (unlikely(wait || lane))
		bdev_filter_put(core);
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
	struct bdev_filter_core *core;

	bio_set_flag(bio, BIO_FILTERED);
	/*
	 * preempt_disable() costs less, but on PREEMPT_RT a filter may take a spinlock.  And
	 * with PREEMPT_RCU a filter that sleeps, which is a mistake, stays where it is.
	 */
	rcu_read_lock();
	blk_filter_enter();
	if (bdev_is_partition(bdev)) {
		core = rcu_dereference(bdev->bd_filter);
		verdict = bdev_filter_call(core, bio);
		if (unlikely(verdict))
			return bdev_filter_finish(core, bio, verdict);
		bdev = bdev_whole(bdev);
	}
	core = rcu_dereference(bdev->bd_filter);
	verdict = bdev_filter_call(core, bio);
	if (unlikely(verdict))
		return bdev_filter_finish(core, bio, verdict);
	blk_filter_leave();
	rcu_read_unlock();
	return BDEV_FILTER_PASS;
}

/* For blk_filter_retarget(). */
enum bdev_filter_verdict blk_filter_call(struct block_device *bdev,
					 struct bio *bio)
{
	enum bdev_filter_verdict verdict;

	do {
		verdict = bdev_filter_call_all(bdev, bio);
	} while (verdict == BDEV_FILTER_GATED);
	return verdict;
}

/* True if the bio does not go on from here. */
bool __blk_filter_bio(struct block_device *bdev, struct bio *bio)
{
	enum bdev_filter_verdict verdict;

	/* A disk with a gate is zoned, and has no partitions. */
	do {
		verdict = bdev_filter_call_all(bdev, bio);
		if (likely(!verdict))
			return false;
	} while (verdict == BDEV_FILTER_GATED);
	if (verdict == BDEV_FILTER_RETARGET)
		return blk_filter_retarget(bio);
	return true;
}

/* The driver has set the size of the device. */
void __blk_filter_resized(struct block_device *bdev)
{
	struct bdev_filter_core *core;

	rcu_read_lock();
	blk_filter_enter();
	core = rcu_dereference(bdev->bd_filter);
	if (core && core->flt->ops->resized)
		core->flt->ops->resized(core->flt, bdev_nr_sectors(bdev));
	blk_filter_leave();
	rcu_read_unlock();
}

/* In place of ->submit_bio, for a filter that was detached. */
static enum bdev_filter_verdict bdev_filter_bypass(struct bdev_filter *flt,
						   struct bio *bio)
{
	return BDEV_FILTER_PASS;
}

/* In place of ->submit_bio, until all that the filter had was submitted. */
static enum bdev_filter_verdict bdev_filter_gate(struct bdev_filter *flt,
						 struct bio *bio)
{
	if (op_is_write(bio->bi_opf))
		return BDEV_FILTER_GATED;
	if (READ_ONCE(flt->core->state) == BDEV_FILTER_STATE_DETACHED)
		return BDEV_FILTER_PASS;
	return flt->ops->submit_bio(flt, bio);
}

/*
 * In place of ->submit_bio, for a filter that takes bios: one that it took is somebody
 * else's when it returns, so what says where to wait is looked at before.
 */
static enum bdev_filter_verdict bdev_filter_taking(struct bdev_filter *flt,
						   struct bio *bio)
{
#ifdef CONFIG_BLK_CGROUP
	struct blkcg_gq *blkg = bio->bi_blkg;
#else
	struct blkcg_gq *blkg = NULL;
#endif
	blk_opf_t opf = bio->bi_opf;
	enum bdev_filter_verdict verdict = flt->ops->submit_bio(flt, bio);
	struct bdev_filter_lane *lane;

	if (verdict != BDEV_FILTER_TAKEN || (opf & REQ_NOWAIT))
		return verdict;
	lane = bdev_filter_full_lane(flt->core, blkg);
	if (likely(!lane))
		return verdict;
	return verdict | lane->index << BDEV_FILTER_LANE_SHIFT;
}

/* After core->state or core->gated changed. */
static void bdev_filter_route(struct bdev_filter_core *core)
{
	lockdep_assert_held(&core->lock);

	WRITE_ONCE(core->submit_bio, core->gated ? bdev_filter_gate :
		   core->state == BDEV_FILTER_STATE_DETACHED ?
		   bdev_filter_bypass : core->process_wq ?
		   bdev_filter_taking : core->flt->ops->submit_bio);
}

/**
 * bdev_filter_take - take ownership of a bio
 * @flt: the filter, of a kind with %BDEV_FILTER_TAKES
 * @bio: the bio passed to its ->submit_bio()
 *
 * To be called from ->submit_bio() before anyone else can see the bio; that
 * method then returns %BDEV_FILTER_TAKEN.  From here on the filter has to finish
 * the bio exactly once, with bdev_filter_endio() or bdev_filter_resubmit(), or
 * hand it to its ->process() with bdev_filter_defer().
 *
 * A submitter is made to wait, after ->submit_bio(), while more than 1024 bios of its
 * control group are queued to be submitted, or of all to be processed; but not for a
 * bio with REQ_NOWAIT.
 *
 * Context: ->submit_bio() only.
 *
 * Return: false if the filter may not have this bio, see
 * bdev_filter_protected(), or the device is going away: the filter has to pass or
 * end the bio.
 */
bool bdev_filter_take(struct bdev_filter *flt, struct bio *bio)
{
	struct bdev_filter_core *core = flt->core;

	if (unlikely(bdev_filter_protected(flt, bio) ||
		     READ_ONCE(core->going)) ||
	    WARN_ON_ONCE(!(flt->ops->flags & BDEV_FILTER_TAKES)))
		return false;

	refcount_inc(&core->refs);
	atomic_inc(&core->owned);
	this_cpu_inc(core->pcpu->taken);
	/* Nobody polls for a bio that is not on a hardware queue. */
	bio_clear_polled(bio);
	WRITE_ONCE(bio->bi_cookie, BLK_QC_T_NONE);
	trace_bdev_filter_take(flt, bio);
	return true;
}
EXPORT_SYMBOL_GPL(bdev_filter_take);

/* If all is submitted that the filter had when it left, others may go on. */
static void bdev_filter_ungate(struct bdev_filter_core *core)
{
	unsigned long flags;

	spin_lock_irqsave(&core->lock, flags);
	if (core->gated && core->left && !atomic_read(&core->owned)) {
		WRITE_ONCE(core->gated, false);
		bdev_filter_route(core);
		wake_up_all(&core->wait);
	}
	spin_unlock_irqrestore(&core->lock, flags);
}

/* A bio that the filter owned is not its own any more. */
static void bdev_filter_done(struct bdev_filter_core *core)
{
	/* Fully ordered: we see the gate, or who closes it sees the count. */
	if (atomic_dec_and_test(&core->owned) && READ_ONCE(core->gated))
		bdev_filter_ungate(core);
	bdev_filter_put(core);
}

static void bdev_filter_end_later(struct bdev_filter_core *core,
				  struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&core->lock, flags);
	bio_list_add(&core->ended, bio);
	queue_work(core->lane_wq, &core->lane.work);
	spin_unlock_irqrestore(&core->lock, flags);
}

/**
 * bdev_filter_endio - end a bio that was taken
 * @flt: filter that took it
 * @bio: the bio
 * @status: status it ends with
 *
 * ->bi_end_io() of the bio runs inside of this, so no lock may be held that it could
 * need.  ->submit_bio() rather returns bdev_filter_end(), without
 * taking the bio: the core then ends it outside of the RCU read section.  In the end_io
 * function of an armed bio a worker ends @bio, as that may call such a function again.
 * Neither @bio nor @flt may be used afterwards.
 *
 * Context: Any.
 */
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status)
{
	/* Part of the bio may have been split off and failed before. */
	if (status)
		bio->bi_status = status;
	/* Nobody else compares with this one; the next one there may be another bio. */
	if (READ_ONCE(flt->core->processing) == bio)
		WRITE_ONCE(flt->core->processing, NULL);
	bdev_filter_set_ended(bio);
	trace_bdev_filter_finish(flt, bio);
	/* Who is in such a function stays on its CPU; for others it does not matter. */
	if (unlikely(raw_cpu_read(blk_filter_ending))) {
		bdev_filter_end_later(flt->core, bio);
		return;
	}
	bio_endio(bio);
	bdev_filter_done(flt->core);
}
EXPORT_SYMBOL_GPL(bdev_filter_endio);

/**
 * bdev_filter_drop - end a bio that was taken and forgotten
 * @flt: filter that took it
 * @bio: the bio
 *
 * As bdev_filter_endio() with an I/O error, for a filter that lost track of what to do
 * with the bio.  The first time the kernel log says so.
 *
 * Context: Any.
 */
void bdev_filter_drop(struct bdev_filter *flt, struct bio *bio)
{
	if (!xchg(&flt->core->dropped, true))
		pr_warn("%s: %s dropped a bio\n", flt->dev_name, flt->name);
	bdev_filter_endio(flt, bio, BLK_STS_IOERR);
}
EXPORT_SYMBOL_GPL(bdev_filter_drop);

/*
 * The check of each bio that the core lets out: the device, or the partition, may
 * have changed while the filter had the bio, and one that was sent elsewhere or made
 * by a filter never passed submit_bio_noacct().  Returns %false if the bio has ended.
 */
bool blk_filter_check_bio(struct bio *bio)
{
	struct block_device *bdev = bio->bi_bdev;
	bool filtered = bio_flagged(bio, BIO_FILTERED);

	/* In case that it ends here. */
	bio_clear_flag(bio, BIO_FILTERED);
	/* submit_bio_check() wants to look at its place in the partition, too. */
	if (bio_flagged(bio, BIO_REMAPPED)) {
		bio_clear_flag(bio, BIO_REMAPPED);
		if (bio_sectors(bio))
			bio->bi_iter.bi_sector -= bdev->bd_start_sect;
	}
	if (unlikely(bio_unaligned(bio, bdev_get_queue(bdev)))) {
		bio_endio_status(bio, BLK_STS_INVAL);
		return false;
	}
	if (!submit_bio_check(bio))
		return false;
	if (filtered)
		bio_set_flag(bio, BIO_FILTERED);
	return true;
}

/* Whether the device can have the data of a bio where it is in memory. */
bool blk_filter_segments_aligned(struct block_device *bdev, struct bio *bio)
{
	unsigned int mask = bdev_dma_alignment(bdev);
	struct bvec_iter iter;
	struct bio_vec bv;

	if (!bio_has_data(bio))
		return true;
	bio_for_each_bvec(bv, bio, iter)
		if ((bv.bv_offset | bv.bv_len) & mask)
			return false;
	return true;
}

/* A bio goes on below its filter. */
static void bdev_filter_send(struct bdev_filter_core *core, struct bio *bio)
{
	struct block_device *bdev = bio->bi_bdev;

	/* By bdev_filter_retarget(), to another device: everything anew. */
	if (!bio_flagged(bio, BIO_FILTERED)) {
		if (!blk_filter_retarget(bio))
			submit_bio_noacct_nocheck(bio, false);
		return;
	}
	if (!blk_filter_check_bio(bio))
		return;
	if (core->flt->on_partition && bdev_is_partition(bdev) &&
	    __blk_filter_bio(bdev_whole(bdev), bio))
		return;
	submit_bio_noacct_nocheck(bio, false);
}

static void bdev_filter_send_owned(struct bdev_filter_core *core,
				   struct bio *bio)
{
	bdev_filter_send(core, bio);
	/* This may be the last bio: the release waits for us. */
	bdev_filter_done(core);
}

static struct bio *bdev_filter_pop(struct bdev_filter_core *core,
				   struct bdev_filter_lane *lane)
{
	struct bio *bio;

	lockdep_assert_held(&core->lock);

	bio = bio_list_pop(&lane->bios);
	if (bio) {
		WRITE_ONCE(core->queued, core->queued - 1);
		WRITE_ONCE(lane->nr, lane->nr - 1);
	}
	/*
	 * A submitter sees the number, or it is seen here.  Who is woken wakes the next, but
	 * may take a while to run: so several are, and all when nothing is left.
	 */
	if ((!bio || (lane->nr && !(lane->nr % BDEV_FILTER_WAKE))) &&
	    lane->nr <= BDEV_FILTER_MAX_QUEUED && wq_has_sleeper(&lane->wait)) {
		if (bio)
			wake_up(&lane->wait);
		else
			wake_up_all(&lane->wait);
	}
	return bio;
}

/*
 * Bios that wait in a lane may be merged with the one that is next.  Most of the time none
 * does, and that one is on its way sooner without a plug.  To be ended by blk_finish_plug(),
 * whether it was started or not.
 */
static void bdev_filter_plug(struct bdev_filter_lane *lane,
			     struct blk_plug *plug)
{
	if (READ_ONCE(lane->nr))
		blk_start_plug(plug);
}

static void bdev_filter_push(struct bdev_filter_core *core,
			     struct bdev_filter_lane *lane, struct bio *bio)
{
	lockdep_assert_held(&core->lock);

	bio_list_add(&lane->bios, bio);
	WRITE_ONCE(core->queued, core->queued + 1);
	WRITE_ONCE(lane->nr, lane->nr + 1);
	queue_work(lane->wq, &lane->work);
}

static void bdev_filter_lane_work(struct work_struct *work)
{
	struct bdev_filter_lane *lane =
		container_of(work, struct bdev_filter_lane, work);
	struct bdev_filter_core *core = lane->core;
	unsigned int memflags = memalloc_noio_save();
	struct bio *bio, *ended = NULL;
	struct blk_plug plug;

	for (;;) {
		spin_lock_irq(&core->lock);
		if (lane == &core->lane)
			ended = bio_list_pop(&core->ended);
		bio = ended ? NULL : bdev_filter_pop(core, lane);
		lane->running = bio;
		spin_unlock_irq(&core->lock);
		if (ended) {
			bio_endio(ended);
			bdev_filter_done(core);
		} else if (bio) {
			bdev_filter_plug(lane, &plug);
			bdev_filter_send_owned(core, bio);
		} else {
			break;
		}
	}
	blk_finish_plug(&plug);
	memalloc_noio_restore(memflags);
}

static void bdev_filter_init_lane(struct bdev_filter_core *core,
				  struct bdev_filter_lane *lane,
				  struct workqueue_struct *wq,
				  work_func_t function)
{
	lane->core = core;
	lane->wq = wq;
	bio_list_init(&lane->bios);
	init_waitqueue_head(&lane->wait);
	INIT_WORK(&lane->work, function);
}

/*
 * The lane of a control group.  One that is idle may become that of another group;
 * the group is looked at as a label only, and needs no reference.
 */
static struct bdev_filter_lane *
bdev_filter_get_lane(struct bdev_filter_core *core, const void *group)
{
	struct bdev_filter_lane *lane = bdev_filter_lane_of(core, group);
	struct bdev_filter_lane *idle;

	if (!group || lane != &core->lane)
		return lane;
	list_for_each_entry(idle, &core->lanes, entry)
		if (!idle->running && !idle->nr && !idle->waiters)
			goto found;
	if (core->nr_lanes == BDEV_FILTER_MAX_LANES)
		return lane;
	idle = kzalloc_obj(*idle, GFP_NOWAIT | __GFP_NOWARN);
	if (!idle)
		return lane;
	bdev_filter_init_lane(core, idle, core->lane_wq, bdev_filter_lane_work);
	list_add_tail(&idle->entry, &core->lanes);
	core->nr_lanes++;
	idle->index = core->lane.index + core->nr_lanes;
found:
	idle->group = group;
	return idle;
}

/* A bio is to be submitted, by a worker. */
static void bdev_filter_queue(struct bdev_filter_core *core, struct bio *bio)
{
	bool ordered = op_is_write(bio->bi_opf) && bdev_is_zoned(bio->bi_bdev);
	struct bdev_filter_lane *lane = &core->lane;
	const void *group = NULL;

	lockdep_assert_held(&core->lock);

#ifdef CONFIG_BLK_CGROUP
	if (!ordered)
		group = bdev_filter_group(bio->bi_blkg);
#endif
	if (group)
		lane = bdev_filter_get_lane(core, group);
	/* In ->process(), and of that very bio: the worker looks there afterwards. */
	else if (!ordered && core->processing == bio &&
		 current_work() == &core->process_lane.work) {
		core->processing = NULL;
		core->processed = bio;
		return;
	}
	bdev_filter_push(core, lane, bio);
}

/**
 * bdev_filter_resubmit - let a bio that was taken go on
 * @flt: filter that took it
 * @bio: the bio
 *
 * The bio goes on below @flt: to the filter of the whole disk if @flt is that
 * of a partition, then to the device.  A worker of the filter submits it: the one that
 * runs ->process() after that returned, or another.  Those of a zoned device are submitted
 * in the order of the calls; others need not be.  Neither @bio nor @flt may be used
 * afterwards.
 *
 * Context: Any.  Locks may be held.
 */
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio)
{
	struct bdev_filter_core *core = flt->core;
	unsigned long flags;

	trace_bdev_filter_resubmit(flt, bio);
	/* It is not the submitter any more who would have to wait. */
	bio->bi_opf &= ~REQ_NOWAIT;

	spin_lock_irqsave(&core->lock, flags);
	bdev_filter_queue(core, bio);
	spin_unlock_irqrestore(&core->lock, flags);
}
EXPORT_SYMBOL_GPL(bdev_filter_resubmit);

/**
 * bdev_filter_defer - hand a bio that was taken to ->process()
 * @flt: filter that took it
 * @bio: the bio
 *
 * Allocates nothing, so it works when memory is short.  A filter that leaves its
 * device gets no more calls of ->process(), from before ->let_go() on: the core
 * resubmits what is left, after what that resubmits.
 * Neither @bio nor @flt may be used afterwards but by ->process().
 *
 * Context: Any.  Locks may be held.
 */
void bdev_filter_defer(struct bdev_filter *flt, struct bio *bio)
{
	struct bdev_filter_core *core = flt->core;
	unsigned long flags;

	trace_bdev_filter_defer(flt, bio);
	bio->bi_opf &= ~REQ_NOWAIT;

	spin_lock_irqsave(&core->lock, flags);
	if (flt->ops->process && !core->left)
		bdev_filter_push(core, &core->process_lane, bio);
	else
		bdev_filter_queue(core, bio);
	spin_unlock_irqrestore(&core->lock, flags);
}
EXPORT_SYMBOL_GPL(bdev_filter_defer);

/* In ->process(), or after it: submit the bio that it has resubmitted. */
void blk_filter_flush_processed(struct bdev_filter_core *core)
{
	struct bio *bio = core->processed;

	core->processed = NULL;
	if (bio)
		bdev_filter_send_owned(core, bio);
}

/**
 * bdev_filter_sleep - sleep in ->process()
 * @flt: the filter
 * @timeout: for how long, in jiffies
 *
 * Ends early when the filter is to leave its device, so that nobody waits for it.
 *
 * Context: ->process() only.
 *
 * Return: false if the filter is to leave its device.
 */
bool bdev_filter_sleep(struct bdev_filter *flt, unsigned long timeout)
{
	struct bdev_filter_core *core = flt->core;

	blk_filter_flush_processed(core);
	return !wait_event_idle_timeout(core->wait, READ_ONCE(core->leaving),
					timeout);
}
EXPORT_SYMBOL_GPL(bdev_filter_sleep);

static void bdev_filter_leave(struct bdev_filter_core *core)
{
	struct bdev_filter *flt = core->flt;
	struct bio *bio;
	bool cut;

	/* Then nobody is in bdev_filter_take() any more. */
	synchronize_rcu();
	if (flt->ops->let_go)
		flt->ops->let_go(flt);

	/* After what ->process() moved to a list of its own: that was deferred before. */
	spin_lock_irq(&core->lock);
	while ((bio = bdev_filter_pop(core, &core->process_lane)))
		bdev_filter_queue(core, bio);
	core->left = true;
	cut = core->cutting;
	spin_unlock_irq(&core->lock);
	bdev_filter_ungate(core);
	if (cut)
		queue_work(system_dfl_wq, &core->cut_work);
}

static void bdev_filter_process_work(struct work_struct *work)
{
	struct bdev_filter_core *core =
		container_of(work, struct bdev_filter_core, process_lane.work);
	const struct bdev_filter_operations *ops = core->flt->ops;
	unsigned int memflags = memalloc_noio_save();
	struct blk_plug plug;
	struct bio *bio;

	for (;;) {
		if (READ_ONCE(core->leaving) && !core->left)
			bdev_filter_leave(core);

		spin_lock_irq(&core->lock);
		bio = bdev_filter_pop(core, &core->process_lane);
		core->processing = bio;
		spin_unlock_irq(&core->lock);
		if (!bio)
			break;
		bdev_filter_plug(&core->process_lane, &plug);
		ops->process(core->flt, bio);
		/* Only this worker compares with it in earnest. */
		WRITE_ONCE(core->processing, NULL);
		blk_filter_flush_processed(core);
	}
	blk_finish_plug(&plug);
	memalloc_noio_restore(memflags);
}

/* What drivers take for granted of a bio that no file system has made. */
static int bdev_filter_check_own(struct bdev_filter *flt,
				 struct block_device *bdev, struct bio *bio)
{
	unsigned int nr = bio_sectors(bio);
	sector_t max = bdev_nr_sectors(bdev);

	if (inode_unhashed(bdev->bd_mapping->host) ||
	    test_bit(GD_DEAD, &bdev->bd_disk->state))
		return -ENODEV;
	if ((op_is_flush(bio->bi_opf) || (bio->bi_opf & REQ_ATOMIC)) &&
	    bio_op(bio) != REQ_OP_WRITE)
		return -EINVAL;
	/* A length of 0 is all of the device to some. */
	if (!nr && !(bio->bi_opf & REQ_PREFLUSH) && !op_is_zone_mgmt(bio_op(bio)))
		return -EINVAL;
	if (op_is_zone_mgmt(bio_op(bio)) && bio->bi_iter.bi_sector >= max)
		return -EINVAL;
	if (op_is_write(bio->bi_opf) && bdev_is_zoned(bdev) &&
	    !(flt->ops->flags & BDEV_FILTER_ZONED))
		return -EOPNOTSUPP;
	if (op_is_write(bio->bi_opf) && nr && bdev_read_only(bdev))
		return -EROFS;
	if (nr > max || bio->bi_iter.bi_sector > max - nr ||
	    bio_unaligned(bio, bdev_get_queue(bdev)) ||
	    !blk_filter_segments_aligned(bdev, bio))
		return -EINVAL;
	return 0;
}

static void bdev_filter_submit_own(struct bio *bio, void *priv)
{
	struct bdev_filter_core *core = priv;
	struct block_device *bdev = bio->bi_bdev;

	/* Below this filter, but not below one that took its place meanwhile. */
	if (rcu_access_pointer(bdev->bd_filter) == core)
		bio_set_flag(bio, BIO_FILTERED);
	if (!blk_filter_check_bio(bio))
		return;
	/* In this order: throttling submits a bio as one that was filtered. */
	if (bio_flagged(bio, BIO_FILTERED) && core->flt->on_partition &&
	    __blk_filter_bio(bdev_whole(bdev), bio))
		return;
	if (!blk_throtl_bio(bio))
		submit_bio_noacct_nocheck(bio, false);
}

/**
 * bdev_filter_submit_wait - do I/O of a filter's own, and wait for it
 * @flt: the filter
 * @owned: a bio that the filter owns and does not finish before this returns; %NULL
 *	in ->detached() of a filter with %BDEV_FILTER_SAVES
 * @bio: a bio of the filter's own, with sectors relative to the device
 *
 * As submit_bio_wait(), for the device of the filter.  The bio is not shown to @flt;
 * if that is the filter of a partition, it is shown to the filter of the whole disk.
 *
 * Drivers take the device for idle when nobody has it open.  So this needs an opener:
 * that is the submitter of @owned, or the core, which opens the device before it calls
 * ->detached(): for reading, as a device that is mounted may be closed for writing by
 * others, which a filter below the mount is not.  The I/O is charged to the control group
 * of @owned.
 *
 * Context: ->process() or ->detached().  May sleep, allocates without I/O.
 *
 * Return: 0, -ENODEV if the device is being removed, -EROFS for a write to a device
 * that is read-only, -EINVAL if the bio goes beyond the end of the device, is not made
 * of whole logical blocks, has segments that are not aligned as the device wants them,
 * is empty and neither a flush nor a zone operation, or has flush flags and is no
 * write, -EOPNOTSUPP for a write to a zoned device without %BDEV_FILTER_ZONED; else the
 * error that the bio ended with.
 */
int bdev_filter_submit_wait(struct bdev_filter *flt, struct bio *owned,
			    struct bio *bio)
{
	struct file *file = flt->core->file;
	struct block_device *bdev;
	int ret;

	if (!owned && WARN_ON_ONCE(!(flt->ops->flags & BDEV_FILTER_SAVES) ||
				   !READ_ONCE(flt->core->cut)))
		return -EINVAL;
	/* It was sent elsewhere: its submitter has opened another device. */
	if (owned && !bio_flagged(owned, BIO_FILTERED))
		return -EINVAL;
	/* The device went before the core could open it. */
	if (!owned && !file)
		return -ENODEV;
	bdev = owned ? owned->bi_bdev : file_bdev(file);
	if (!flt->on_partition)
		bdev = bdev_whole(bdev);
	ret = bdev_filter_check_own(flt, bdev, bio);
	if (ret)
		return ret;

	bio_clear_polled(bio);
	/* Others wait for us: io.max and the like charge for it, but do not hold it up. */
	bio->bi_opf |= REQ_META;
	bio_set_dev(bio, bdev);
	if (owned) {
		bio_clone_blkg_association(bio, owned);
		bio->bi_ioprio = owned->bi_ioprio;
		bio->bi_write_hint = owned->bi_write_hint;
	}
	/* In ->process() nobody else submits that while we wait. */
	if (owned)
		blk_filter_flush_processed(flt->core);
	bio_await(bio, flt->core, bdev_filter_submit_own);
	return blk_status_to_errno(bio->bi_status);
}
EXPORT_SYMBOL_GPL(bdev_filter_submit_wait);

/*
 * Keep the device of a filter, and its driver, for longer than an RCU read
 * section, but not while waiting: the driver cannot be unloaded meanwhile.  NULL if
 * the filter left its slot or the device is going away.
 */
static struct block_device *bdev_filter_pin(struct bdev_filter_core *core)
{
	struct block_device *bdev;

	rcu_read_lock();
	bdev = rcu_dereference(core->bdev);
	if (bdev && !try_module_get(bdev->bd_disk->fops->owner))
		bdev = NULL;
	if (bdev && !kobject_get_unless_zero(bdev_kobj(bdev))) {
		module_put(bdev->bd_disk->fops->owner);
		bdev = NULL;
	}
	rcu_read_unlock();
	return bdev;
}

static void bdev_filter_unpin(struct block_device *bdev)
{
	struct module *owner = bdev->bd_disk->fops->owner;

	put_device(&bdev->bd_device);
	module_put(owner);
}

/**
 * bdev_filter_bdev - the device that a filter is being attached to
 * @flt: the filter
 *
 * Context: ->attach() only; who attaches keeps the device until it returned.
 */
struct block_device *bdev_filter_bdev(struct bdev_filter *flt)
{
	return rcu_access_pointer(flt->core->bdev);
}
EXPORT_SYMBOL_GPL(bdev_filter_bdev);

static void bdev_filter_free(struct rcu_head *rcu)
{
	struct bdev_filter_core *core =
		container_of(rcu, struct bdev_filter_core, rcu);

	kfree(core->flt);
	kfree(core);
}

void bdev_filter_put_core(struct bdev_filter_core *core)
{
	if (refcount_dec_and_test(&core->handles))
		call_rcu(&core->rcu, bdev_filter_free);
}

/**
 * bdev_filter_get_handle - keep the memory of a filter
 * @flt: the filter, from one of its methods, ->attach() included
 *
 * For bdev_filter_is_attached().  It keeps neither the filter on its device nor its
 * module.
 *
 * Context: Any.
 */
void bdev_filter_get_handle(struct bdev_filter *flt)
{
	refcount_inc(&flt->core->handles);
}
EXPORT_SYMBOL_GPL(bdev_filter_get_handle);

/**
 * bdev_filter_put_handle - undo bdev_filter_get_handle()
 * @flt: the filter
 *
 * Context: Any.
 */
void bdev_filter_put_handle(struct bdev_filter *flt)
{
	bdev_filter_put_core(flt->core);
}
EXPORT_SYMBOL_GPL(bdev_filter_put_handle);

/**
 * bdev_filter_is_attached - whether a filter is on its device
 * @flt: the filter; the caller holds a handle
 *
 * True from attach, after ->attach(), until the moment when bios begin to pass it
 * by, which is before ->detached().
 *
 * Context: Any.
 */
bool bdev_filter_is_attached(struct bdev_filter *flt)
{
	struct bdev_filter_core *core = flt->core;
	struct block_device *bdev;
	bool attached;

	/* The state is set before the filter enters its slot, changed before it leaves. */
	rcu_read_lock();
	bdev = rcu_dereference(core->bdev);
	attached = bdev && rcu_access_pointer(bdev->bd_filter) == core &&
		READ_ONCE(core->state) == BDEV_FILTER_STATE_ATTACHED;
	rcu_read_unlock();
	return attached;
}
EXPORT_SYMBOL_GPL(bdev_filter_is_attached);

/* Undo what bdev_filter_create() did; the last that happens to a filter. */
static void bdev_filter_release_work(struct work_struct *work)
{
	struct bdev_filter_core *core =
		container_of(work, struct bdev_filter_core, release_work);
	const struct bdev_filter_operations *ops = core->flt->ops;
	struct bdev_filter_lane *lane, *next;
	unsigned int memflags = memalloc_noio_save();

	/* Nothing is queued any more, but ->process() may not be through. */
	if (core->process_wq)
		destroy_workqueue(core->process_wq);
	if (core->lane_wq)
		destroy_workqueue(core->lane_wq);
	if (core->attached && ops->release)
		ops->release(core->flt);
	blk_filter_close_targets(core);
	list_for_each_entry_safe(lane, next, &core->lanes, entry)
		kfree(lane);
	blk_filter_destroy_hooks(core);
	RCU_INIT_POINTER(core->bdev, NULL);
	if (core->attached)
		static_branch_dec(&blk_filter_key);
	free_percpu(core->pcpu);
	module_put(core->owner);
	/* Last, as who finds it there waits for this, with the module kept. */
	spin_lock(&bdev_filter_list_lock);
	list_del(&core->entry);
	spin_unlock(&bdev_filter_list_lock);
	complete_all(&core->released);
	bdev_filter_put_core(core);
	memalloc_noio_restore(memflags);
}

/* Put a reference that kept the filter working.  Any context. */
void bdev_filter_put(struct bdev_filter_core *core)
{
	if (refcount_dec_and_test(&core->refs))
		queue_work(system_dfl_wq, &core->release_work);
}

/*
 * The filter is to leave its device: it may take nothing any more, and what it has
 * goes on.
 */
static void bdev_filter_request_leave(struct bdev_filter_core *core)
{
	lockdep_assert_held(&core->lock);

	if (core->leaving || !core->process_wq)
		return;
	WRITE_ONCE(core->leaving, true);
	wake_up_all(&core->wait);
	queue_work(core->process_wq, &core->process_lane.work);
}

/* Hold up the writes to a zoned device until those are submitted that we have. */
static void bdev_filter_close_gate(struct bdev_filter_core *core,
				   struct block_device *bdev)
{
	lockdep_assert_held(&core->lock);

	if (core->process_wq && !core->leaving && bdev_is_zoned(bdev))
		WRITE_ONCE(core->gated, true);
}

/*
 * Have ->detached() called and the reference of the slot dropped, once: by now if the
 * filter has left, else when it has.
 */
static void bdev_filter_start_cut(struct bdev_filter_core *core)
{
	lockdep_assert_held(&core->lock);

	if (core->cutting)
		return;
	core->cutting = true;
	/* For cut_work, which waits for the release. */
	refcount_inc(&core->handles);
	bdev_filter_request_leave(core);
	if (core->left || !core->process_wq)
		queue_work(system_dfl_wq, &core->cut_work);
}

static bool bdev_filter_publish(struct block_device *bdev,
				struct bdev_filter_core *core)
{
	/* Before anyone can see it: it may be detached at once. */
	core->state = BDEV_FILTER_STATE_ATTACHED;
	if (!unrcu_pointer(cmpxchg(&bdev->bd_filter, NULL,
				   RCU_INITIALIZER(core))))
		return true;
	core->state = BDEV_FILTER_STATE_NEW;
	return false;
}

static bool bdev_filter_unpublish(struct block_device *bdev,
				  struct bdev_filter_core *core)
{
	if (unrcu_pointer(cmpxchg(&bdev->bd_filter, RCU_INITIALIZER(core),
				  NULL)) != core)
		return false;
	RCU_INIT_POINTER(core->bdev, NULL);
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

/* The filter loses its device, by a detach or a removal, whoever was first. */
static bool bdev_filter_lose(struct block_device *bdev,
			     struct bdev_filter_core *core,
			     enum bdev_filter_state state)
{
	lockdep_assert_held(&bdev->bd_disk->filter_lock);

	if (core->state != BDEV_FILTER_STATE_ATTACHED)
		return false;
	spin_lock_irq(&core->lock);
	WRITE_ONCE(core->state, state);
	if (state == BDEV_FILTER_STATE_DETACHED)
		bdev_filter_close_gate(core, bdev);
	bdev_filter_route(core);
	spin_unlock_irq(&core->lock);
	trace_bdev_filter_detach(core->flt);
	blk_filter_uevent(bdev, core->flt, "detach");
	return true;
}

static void bdev_filter_empty_slot(struct block_device *bdev,
				   struct bdev_filter_core *core)
{
	lockdep_assert_held(&bdev->bd_disk->filter_lock);

	if (bdev_filter_unpublish(bdev, core))
		blk_filter_update_flags(bdev->bd_disk, NULL);
}

static void bdev_filter_going(struct block_device *bdev,
			      struct bdev_filter_core *core)
{
	spin_lock_irq(&core->lock);
	WRITE_ONCE(core->going, true);
	bdev_filter_close_gate(core, bdev);
	bdev_filter_route(core);
	bdev_filter_request_leave(core);
	spin_unlock_irq(&core->lock);
}

/*
 * The disk is about to be removed, or is dead: have its filters let go of what they
 * keep, which may be what somebody waits for with open_mutex held.  No filter can be
 * attached any more.
 *
 * Without filter_lock, under which uevents are sent: they may wait for memory, and that
 * for I/O of this disk.  The slot keeps its reference for longer than the RCU read section.
 */
void blk_filter_going(struct gendisk *disk)
{
	struct bdev_filter_core *core;
	struct block_device *part;
	unsigned long idx;

	WRITE_ONCE(disk->filter_going, true);
	/* We see the filter, or bdev_filter_attach() sees this: it has a cmpxchg() between. */
	smp_mb();
	rcu_read_lock();
	xa_for_each(&disk->part_tbl, idx, part) {
		core = rcu_dereference(part->bd_filter);
		if (core)
			bdev_filter_going(part, core);
	}
	rcu_read_unlock();
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
	struct gendisk *disk = bdev->bd_disk;
	struct bdev_filter_core *core;

	mutex_lock(&disk->filter_lock);
	core = rcu_dereference_protected(bdev->bd_filter,
					 lockdep_is_held(&disk->filter_lock));
	if (core) {
		/* Whose detach has begun can be released once the slot is empty. */
		refcount_inc(&core->handles);
		bdev_filter_lose(bdev, core, BDEV_FILTER_STATE_REMOVED);
		bdev_filter_empty_slot(bdev, core);
		spin_lock_irq(&core->lock);
		bdev_filter_start_cut(core);
		spin_unlock_irq(&core->lock);
		wake_up_all(&core->wait);
		bdev_filter_put_core(core);
	}
	mutex_unlock(&disk->filter_lock);
}

/*
 * Last resort: blk_filter_remove() should have done this.  The disk may be gone
 * by now, so look at nothing but the slot.
 */
void blk_filter_evict(struct block_device *bdev)
{
	struct bdev_filter_core *core = rcu_access_pointer(bdev->bd_filter);

	if (likely(!core))
		return;
	WARN_ONCE(1, "filter attached to an evicted block device\n");
	refcount_inc(&core->handles);
	bdev_filter_unpublish(bdev, core);
	spin_lock_irq(&core->lock);
	core->state = BDEV_FILTER_STATE_REMOVED;
	bdev_filter_start_cut(core);
	spin_unlock_irq(&core->lock);
	wake_up_all(&core->wait);
	bdev_filter_put_core(core);
}

/*
 * Detach a filter from its device, unless somebody else did.  Does not wait for the
 * rest.  The caller keeps @bdev, and has a handle.
 */
void bdev_filter_start_detach(struct block_device *bdev,
			      struct bdev_filter_core *core)
{
	struct gendisk *disk = bdev->bd_disk;

	mutex_lock(&disk->filter_lock);
	if (bdev_filter_lose(bdev, core, BDEV_FILTER_STATE_DETACHED)) {
		/* With a gate, or I/O to come, cut_work does it. */
		if (!core->gated && !(core->flt->ops->flags & BDEV_FILTER_SAVES))
			bdev_filter_empty_slot(bdev, core);
		spin_lock_irq(&core->lock);
		bdev_filter_start_cut(core);
		spin_unlock_irq(&core->lock);
	}
	mutex_unlock(&disk->filter_lock);
}

/* Close a device here and now.  In work only: no locks are held there. */
void blk_filter_close(struct file *file)
{
	get_file(file);
	bdev_fput(file);
	__fput_sync(file);
}

/* An opener for ->detached(), as any other: the device is then in use. */
static struct file *bdev_filter_open(struct bdev_filter_core *core)
{
	struct file *file;

	if (!rcu_access_pointer(core->bdev))
		return NULL;
	file = bdev_file_open_by_dev(core->devt, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(file))
		return NULL;
	/* The number may be another device's by now; an open one keeps its memory. */
	if (file_bdev(file) == rcu_access_pointer(core->bdev))
		return file;
	blk_filter_close(file);
	return NULL;
}

static void bdev_filter_wait_and_tell(struct bdev_filter_core *core)
{
	if (!wait_for_completion_timeout(&core->released, BDEV_FILTER_WAIT))
		pr_warn("%s: %s was removed and waits for %d bios\n",
			core->flt->dev_name, core->flt->name,
			blk_filter_in_use(core));
}

/* The last but the release: the filter has left its device. */
static void bdev_filter_cut_work(struct work_struct *work)
{
	struct bdev_filter_core *core =
		container_of(work, struct bdev_filter_core, cut_work);
	struct bdev_filter_cache __percpu *hook_caches = core->hook_caches;
	const struct bdev_filter_operations *ops = core->flt->ops;
	unsigned int memflags = memalloc_noio_save();
	struct block_device *bdev;
	bool removed;

	wait_event(core->wait, !READ_ONCE(core->gated));
	removed = core->state == BDEV_FILTER_STATE_REMOVED;
	if (!removed && (ops->flags & BDEV_FILTER_SAVES))
		core->file = bdev_filter_open(core);
	/* Else it is out of its slot already. */
	bdev = bdev_filter_pin(core);
	if (bdev) {
		mutex_lock(&bdev->bd_disk->filter_lock);
		bdev_filter_empty_slot(bdev, core);
		mutex_unlock(&bdev->bd_disk->filter_lock);
		bdev_filter_unpin(bdev);
	}
	/* Its driver is being unloaded: then the removal is on its way, and does it. */
	wait_event(core->wait, !rcu_access_pointer(core->bdev));
	WRITE_ONCE(core->cut, true);
	WRITE_ONCE(core->hook_caches, NULL);
	synchronize_rcu();
	blk_filter_drain_hooks(hook_caches);
	if (ops->detached)
		ops->detached(core->flt, removed ? BDEV_FILTER_REMOVED :
						   BDEV_FILTER_DETACHED);
	if (core->file)
		blk_filter_close(core->file);
	core->file = NULL;
	bdev_filter_put(core);
	/* Who detaches waits, and says so; who removes does not. */
	if (removed)
		bdev_filter_wait_and_tell(core);
	bdev_filter_put_core(core);
	memalloc_noio_restore(memflags);
}

/*
 * Wait until a filter has been released.  If @killable, a fatal signal ends the wait.
 * The caller has a handle.
 */
int bdev_filter_wait_released(struct bdev_filter_core *core, bool killable)
{
	bool told = false;
	long ret;

	for (;;) {
		ret = killable ?
			wait_for_completion_killable_timeout(&core->released,
							     BDEV_FILTER_WAIT) :
			wait_for_completion_timeout(&core->released,
						    BDEV_FILTER_WAIT);
		if (ret > 0)
			return 0;
		if (ret < 0)
			return -EINTR;
		if (!told)
			pr_warn("%s: detach of %s waits for %d bios\n",
				core->flt->dev_name, core->flt->name,
				blk_filter_in_use(core));
		told = true;
	}
}

/* The caller has a handle. */
static void bdev_filter_pin_and_detach(struct bdev_filter_core *core)
{
	struct block_device *bdev = bdev_filter_pin(core);

	/* If the device is going away, removal will do it. */
	if (bdev) {
		bdev_filter_start_detach(bdev, core);
		bdev_filter_unpin(bdev);
	}
}

static void bdev_filter_detach_work(struct work_struct *work)
{
	struct bdev_filter_core *core =
		container_of(work, struct bdev_filter_core, detach_work);

	bdev_filter_pin_and_detach(core);
	bdev_filter_put_core(core);
}

/* In one of its methods?  They run in an RCU read section, atomically, or in work. */
static bool bdev_filter_in_method(struct bdev_filter_core *core)
{
	struct work_struct *work = current_work();

#ifdef CONFIG_PREEMPT_COUNT
	if (!preemptible())
		return true;
#else
	if (raw_cpu_read(blk_filter_depth))
		return true;
#endif
	return rcu_preempt_depth() || in_interrupt() ||
		(work && (work == &core->process_lane.work ||
			  work == &core->cut_work ||
			  work == &core->release_work));
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
 * A filter must not call this for itself from its methods, nor from the end_io
 * function of a bio that it armed: it would wait for itself.  The kernel warns then,
 * once, and the filter is detached without waiting.
 *
 * Context: Process context, may sleep.
 */
void bdev_filter_detach(struct bdev_filter *flt)
{
	struct bdev_filter_core *core = flt->core;
	bool killable = false;

	if (WARN_ON_ONCE(!core ||
			 READ_ONCE(core->state) == BDEV_FILTER_STATE_NEW))
		return;
	if (WARN_ON_ONCE(bdev_filter_in_method(core))) {
		/* The handle passes to the work. */
		queue_work(system_dfl_wq, &core->detach_work);
		return;
	}
	bdev_filter_pin_and_detach(core);
	/* A module whose init fails goes whoever has a reference to it. */
	if (refcount_inc_not_zero(&core->refs)) {
		killable = bdev_filter_owner_is_live(flt->ops);
		bdev_filter_put(core);
	}
	bdev_filter_wait_released(core, killable);
	bdev_filter_put_core(core);
}
EXPORT_SYMBOL_GPL(bdev_filter_detach);

/* A module goes: detach what its init function attached before it failed. */
void blk_filter_detach_module(struct module *module)
{
	struct bdev_filter_core *core;

again:
	spin_lock(&bdev_filter_list_lock);
	list_for_each_entry(core, &bdev_filter_list, entry) {
		if (core->owner != module)
			continue;
		/* On the list it has its own handle. */
		refcount_inc(&core->handles);
		spin_unlock(&bdev_filter_list_lock);
		/* Else it is about to be released, with its module put already. */
		if (READ_ONCE(core->state) == BDEV_FILTER_STATE_ATTACHED)
			pr_warn("%s: %s was not detached\n",
				core->flt->dev_name, core->flt->name);
		bdev_filter_pin_and_detach(core);
		bdev_filter_wait_released(core, false);
		bdev_filter_put_core(core);
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
		!READ_ONCE(disk->filter_going) &&
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
	struct bdev_filter_core *core;
	int ret = 0;

	rcu_read_lock();
	core = rcu_dereference(bdev->bd_filter);
	if (core)
		ret = strcmp(core->flt->name, ops->name) ? -EBUSY : -EALREADY;
	rcu_read_unlock();
	return ret;
}

/* What a filter that takes bios needs of its own. */
static int bdev_filter_create_workers(struct bdev_filter_core *core)
{
	const char *dev_name = core->flt->dev_name;

	core->process_wq = alloc_ordered_workqueue("blkf-%.24s", WQ_MEM_RECLAIM,
						   dev_name);
	core->lane_wq = alloc_workqueue("blkfl-%.24s",
					WQ_MEM_RECLAIM | WQ_UNBOUND, 0,
					dev_name);
	if (!core->process_wq || !core->lane_wq)
		return -ENOMEM;
	bdev_filter_init_lane(core, &core->process_lane, core->process_wq,
			      bdev_filter_process_work);
	bdev_filter_init_lane(core, &core->lane, core->lane_wq,
			      bdev_filter_lane_work);
	core->process_lane.index = 1;
	core->lane.index = 2;
	core->submit_bio = bdev_filter_taking;
	return 0;
}

static struct bdev_filter_core *
bdev_filter_alloc(struct block_device *bdev,
		  const struct bdev_filter_operations *ops)
{
	struct bdev_filter_core *core = kzalloc_obj(*core);
	struct bdev_filter *flt = kzalloc(ops->size, GFP_KERNEL);

	if (!core || !flt)
		goto out_free;
	core->pcpu = alloc_percpu(struct bdev_filter_pcpu);
	if (!core->pcpu)
		goto out_free;

	flt->ops = ops;
	flt->core = core;
	flt->on_partition = bdev_is_partition(bdev);
	strscpy(flt->name, ops->name);
	snprintf(flt->dev_name, sizeof(flt->dev_name), "%pg", bdev);

	core->flt = flt;
	core->submit_bio = ops->submit_bio;
	core->owner = ops->owner;
	core->devt = bdev->bd_dev;
	RCU_INIT_POINTER(core->bdev, bdev);
	refcount_set(&core->refs, 1);
	refcount_set(&core->handles, 1);
	spin_lock_init(&core->lock);
	init_waitqueue_head(&core->wait);
	init_completion(&core->released);
	INIT_LIST_HEAD(&core->lanes);
	INIT_LIST_HEAD(&core->entry);
	INIT_WORK(&core->cut_work, bdev_filter_cut_work);
	INIT_WORK(&core->detach_work, bdev_filter_detach_work);
	INIT_WORK(&core->release_work, bdev_filter_release_work);
	return core;

out_free:
	kfree(flt);
	kfree(core);
	return NULL;
}

/* The one way out for a filter that never was in a slot; @core is gone then. */
static void bdev_filter_abandon(struct bdev_filter_core *core)
{
	refcount_inc(&core->handles);
	bdev_filter_put(core);
	wait_for_completion(&core->released);
	bdev_filter_put_core(core);
}

static struct bdev_filter_core *
bdev_filter_create(struct block_device *bdev,
		   const struct bdev_filter_operations *ops, void *data,
		   const char *options)
{
	struct bdev_filter_core *core;
	int ret;

	/* It is registered but being unloaded: as good as not there. */
	if (!try_module_get(ops->owner))
		return ERR_PTR(-ENOENT);
	core = bdev_filter_alloc(bdev, ops);
	if (!core) {
		module_put(ops->owner);
		return ERR_PTR(-ENOMEM);
	}

	ret = 0;
	if (ops->flags & BDEV_FILTER_TAKES)
		ret = bdev_filter_create_workers(core);
	if (!ret && (ops->flags & BDEV_FILTER_ARMS))
		ret = blk_filter_create_hooks(core);
	if (!ret && ops->attach)
		ret = ops->attach(core->flt, data, options);
	if (ret) {
		bdev_filter_abandon(core);
		return ERR_PTR(ret);
	}
	core->attached = true;

	/* Before it is published: a filter in a slot is never overlooked. */
	static_branch_inc(&blk_filter_key);
	return core;
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
 * Context: Process context, may sleep.
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
	struct bdev_filter_core *core;
	int ret;

	if (options && *options && !(ops->flags & BDEV_FILTER_OPTIONS))
		return ERR_PTR(-EINVAL);
	ret = bdev_filter_check_slot(bdev, ops);
	if (ret)
		return ERR_PTR(ret);
	/* Before ->attach(), which may do a lot; once more when it cannot change. */
	if (!blk_filter_supported(bdev, ops->flags))
		return ERR_PTR(-EOPNOTSUPP);

	core = bdev_filter_create(bdev, ops, data, options ?: "");
	if (IS_ERR(core))
		return ERR_CAST(core);

	mutex_lock(&disk->filter_lock);
	refcount_inc(&core->handles);
	if (!blk_filter_may_attach(bdev))
		ret = -ENODEV;
	else if (!blk_filter_supported(bdev, ops->flags))
		ret = -EOPNOTSUPP;
	if (ret)
		goto out_unlock;
	/* First: no bio passes by a filter that is attached. */
	blk_filter_update_flags(disk, bdev);
	if (bdev_filter_publish(bdev, core)) {
		spin_lock(&bdev_filter_list_lock);
		list_add(&core->entry, &bdev_filter_list);
		spin_unlock(&bdev_filter_list_lock);
		trace_bdev_filter_attach(core->flt);
		blk_filter_uevent(bdev, core->flt, "attach");
		/* Since it was looked at: the removal, which waits for us, has more. */
		if (READ_ONCE(disk->filter_going))
			bdev_filter_going(bdev, core);
	} else {
		ret = bdev_filter_check_slot(bdev, ops) ?: -EBUSY;
		blk_filter_update_flags(disk, NULL);
	}
out_unlock:
	mutex_unlock(&disk->filter_lock);

	if (ret) {
		bdev_filter_put_core(core);
		bdev_filter_abandon(core);
		return ERR_PTR(ret);
	}
	/* Set while ->attach() looked at it, by someone who did not see the filter? */
	if (bdev_nr_sectors(bdev) != nr_sectors)
		__blk_filter_resized(bdev);
	return core->flt;
}
EXPORT_SYMBOL_GPL(bdev_filter_attach);
