// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: hooks, by which a filter learns how a bio ended.
 *
 * A hook takes the place of ->bi_end_io and ->bi_private of a bio, until that
 * completes.  The bio, and only the bio, leads to its hook.  The hook holds a
 * reference of its filter, so the filter, its mempool of hooks and its module
 * stay until the function of the filter has returned here.
 *
 * blk_filter_hooked(), which then is the ->bi_end_io, is a tag as bio_chain_endio() is:
 * bio_endio() sees it, when all is done for the device that had the bio, takes the hooks
 * off and goes on with what was there before.  So chains of bios with hooks complete on
 * as much stack as those without.
 *
 * Most hooks that are free lie on a list of the CPU that freed them, and keep their
 * references there.  Only that CPU changes the list, with interrupts off, which is an RCU
 * read section.  When the filter is cut loose from its device core->hook_caches becomes
 * NULL, and after a grace period the lists are emptied.
 */
#include <linux/blk-filter.h>
#include "blk.h"
#include "blk-filter.h"

/* Hooks that are there even if memory is short. */
#define BDEV_FILTER_HOOKS	16

/* Hooks that each CPU keeps for its next bios. */
#define BDEV_FILTER_CACHED	32

struct bdev_filter_armed {
	struct bdev_filter_hook hook;
	struct bdev_filter_core *core;
	bdev_filter_end_io_t *end_io;
	bio_end_io_t *bi_end_io;
	void *bi_private;
	/* In place of @end_io: where the bio was sent, and where it came from. */
	struct bdev_filter_target *target;
	struct block_device *bi_bdev;
	/* Before @end_io may have changed it. */
	blk_status_t status;
};

struct bdev_filter_cache {
	struct bdev_filter_armed *free;
	unsigned int nr;
};

int blk_filter_create_hooks(struct bdev_filter_core *core)
{
	core->hook_pool = mempool_create_kmalloc_pool(BDEV_FILTER_HOOKS,
						      sizeof(struct bdev_filter_armed));
	core->hook_caches = alloc_percpu(struct bdev_filter_cache);
	return core->hook_pool && core->hook_caches ? 0 : -ENOMEM;
}

/* Also after blk_filter_create_hooks() failed, or was not called. */
void blk_filter_destroy_hooks(struct bdev_filter_core *core)
{
	free_percpu(core->hook_caches);
	mempool_destroy(core->hook_pool);
}

static void bdev_filter_destroy_armed(struct bdev_filter_armed *armed)
{
	struct bdev_filter_core *core = armed->core;

	mempool_free(armed, core->hook_pool);
	bdev_filter_put(core);
}

/*
 * Put the references of the hooks on the lists, a grace period after @caches was
 * core->hook_caches.  The caller has a reference of its own.
 */
void blk_filter_drain_hooks(struct bdev_filter_cache __percpu *caches)
{
	struct bdev_filter_armed *armed, *next;
	int cpu;

	if (!caches)
		return;
	for_each_possible_cpu(cpu) {
		for (armed = per_cpu_ptr(caches, cpu)->free; armed; armed = next) {
			next = armed->bi_private;
			bdev_filter_destroy_armed(armed);
		}
	}
	free_percpu(caches);
}

/*
 * References but those of hooks that are free.  For people: it may change meanwhile, and
 * while the lists are being emptied it counts what is on them.
 */
int blk_filter_in_use(struct bdev_filter_core *core)
{
	struct bdev_filter_cache __percpu *caches;
	int refs = refcount_read(&core->refs);
	int cpu;

	rcu_read_lock();
	caches = READ_ONCE(core->hook_caches);
	if (caches) {
		for_each_possible_cpu(cpu)
			/* Another CPU may be changing it. */
			refs -= data_race(per_cpu_ptr(caches, cpu)->nr);
	}
	rcu_read_unlock();
	return refs;
}

static __always_inline struct bdev_filter_armed *
bdev_filter_cached_armed(struct bdev_filter_core *core)
{
	struct bdev_filter_cache __percpu *caches;
	struct bdev_filter_armed *armed = NULL;
	struct bdev_filter_cache *cache;
	unsigned long flags;

	local_irq_save(flags);
	caches = READ_ONCE(core->hook_caches);
	if (likely(caches)) {
		cache = this_cpu_ptr(caches);
		armed = cache->free;
		if (likely(armed)) {
			cache->free = armed->bi_private;
			cache->nr--;
		}
	}
	local_irq_restore(flags);
	return armed;
}

/*
 * Keep it for the next bio on this CPU, which is cheaper than allocating one.  But
 * not if the mempool has given out some of its reserve, as someone may wait for
 * that.
 */
static __always_inline void
bdev_filter_free_armed(struct bdev_filter_armed *armed)
{
	struct bdev_filter_core *core = armed->core;
	struct bdev_filter_cache __percpu *caches;
	struct bdev_filter_cache *cache;
	unsigned long flags;
	bool keep = false;

	local_irq_save(flags);
	caches = READ_ONCE(core->hook_caches);
	if (likely(caches)) {
		cache = this_cpu_ptr(caches);
		keep = cache->nr < BDEV_FILTER_CACHED &&
			mempool_is_saturated(core->hook_pool);
		if (likely(keep)) {
			armed->bi_private = cache->free;
			cache->free = armed;
			cache->nr++;
		}
	}
	local_irq_restore(flags);
	if (unlikely(!keep))
		bdev_filter_destroy_armed(armed);
}

/* Only a tag.  Who calls ->bi_end_io of a bio that is not its own finds this. */
void blk_filter_hooked(struct bio *bio)
{
	WARN_ON_ONCE(1);
	bio_endio(bio);
}

/*
 * The function stays on this CPU, for bdev_filter_endio(), does not sleep, and can be told
 * by bdev_filter_in_method().
 */
static __always_inline void
blk_filter_call_end_io(struct bdev_filter_armed *armed, struct bio *bio)
{
	if (IS_ENABLED(CONFIG_PREEMPT_RT)) {
		rcu_read_lock();
		migrate_disable();
	} else {
		preempt_disable();
	}
	this_cpu_inc(blk_filter_ending);
	blk_filter_enter();
	armed->end_io(armed->core->flt, bio, &armed->hook);
	blk_filter_leave();
	this_cpu_dec(blk_filter_ending);
	if (IS_ENABLED(CONFIG_PREEMPT_RT)) {
		migrate_enable();
		rcu_read_unlock();
	} else {
		preempt_enable();
	}
}

static noinline void bdev_filter_unhook_target(struct bdev_filter_armed *armed,
					       struct bio *bio)
{
	bio->bi_bdev = armed->bi_bdev;
	bio_clear_flag(bio, BIO_REMAPPED);
	bdev_filter_put_target(armed->target);
	armed->target = NULL;
}

/* The state of a zone follows that: it is not where it could not go. */
static noinline void bdev_filter_keep_zone_error(struct bdev_filter_armed *armed,
						 struct bio *bio)
{
	if (op_is_zone_mgmt(bio_op(bio)))
		bio->bi_status = armed->status;
}

/* Take all hooks off a bio that has completed, the last one first. */
void __blk_filter_unhook(struct bio *bio)
{
	do {
		struct bdev_filter_armed *armed = bio->bi_private;

		armed->status = bio->bi_status;
		bio->bi_end_io = armed->bi_end_io;
		bio->bi_private = armed->bi_private;
		if (unlikely(armed->target))
			bdev_filter_unhook_target(armed, bio);
		else
			blk_filter_call_end_io(armed, bio);
		if (unlikely(armed->status))
			bdev_filter_keep_zone_error(armed, bio);
		bdev_filter_free_armed(armed);
	} while (bio->bi_end_io == blk_filter_hooked);
}

static __always_inline struct bdev_filter_hook *
bdev_filter_hook(struct bdev_filter_armed *armed, struct bdev_filter *flt,
		 struct bio *bio, bdev_filter_end_io_t *end_io)
{
	armed->hook.iter = bio->bi_iter;
	armed->hook.sector = bdev_filter_sector(flt, bio);
	armed->end_io = end_io;
	armed->bi_end_io = bio->bi_end_io;
	armed->bi_private = bio->bi_private;
	bio->bi_end_io = blk_filter_hooked;
	bio->bi_private = armed;
	return &armed->hook;
}

/* With a hook that is not from the list of this CPU. */
static noinline struct bdev_filter_hook *
bdev_filter_hook_new(struct bdev_filter *flt, struct bio *bio,
		     bdev_filter_end_io_t *end_io, gfp_t gfp)
{
	struct bdev_filter_core *core = flt->core;
	struct bdev_filter_armed *armed;

	if (WARN_ON_ONCE(!core->hook_pool))
		return NULL;
	armed = mempool_alloc(core->hook_pool, gfp);
	if (!armed)
		return NULL;
	refcount_inc(&core->refs);
	armed->core = core;
	armed->target = NULL;
	return bdev_filter_hook(armed, flt, bio, end_io);
}

static __always_inline struct bdev_filter_hook *
bdev_filter_hook_bio(struct bdev_filter *flt, struct bio *bio,
		     bdev_filter_end_io_t *end_io, gfp_t gfp)
{
	struct bdev_filter_armed *armed;

	if (unlikely(bdev_filter_protected(flt, bio)))
		return NULL;
	armed = bdev_filter_cached_armed(flt->core);
	if (unlikely(!armed))
		return bdev_filter_hook_new(flt, bio, end_io, gfp);
	return bdev_filter_hook(armed, flt, bio, end_io);
}

/**
 * bdev_filter_arm - have a function called when a bio completes
 * @flt: the filter, of a kind with %BDEV_FILTER_ARMS
 * @bio: a bio that it passes or resubmits right after this
 * @end_io: the function
 *
 * Does not wait for memory and may fail; the bio can then be deferred.
 *
 * Context: Any.
 *
 * Return: what @end_io gets, with @data to be filled in by the caller; %NULL if
 * there is no memory, or if the filter may not do this to the bio, see
 * bdev_filter_protected().
 */
struct bdev_filter_hook *bdev_filter_arm(struct bdev_filter *flt,
					 struct bio *bio,
					 bdev_filter_end_io_t *end_io)
{
	return bdev_filter_hook_bio(flt, bio, end_io,
				    GFP_NOWAIT | __GFP_NOWARN);
}
EXPORT_SYMBOL_GPL(bdev_filter_arm);

/**
 * bdev_filter_arm_wait - bdev_filter_arm() that waits for memory
 * @flt: the filter, of a kind with %BDEV_FILTER_ARMS
 * @bio: a bio that it resubmits right after this
 * @end_io: the function
 *
 * If memory is short this waits for another bio that is armed to complete.
 *
 * Context: ->process() only, with no lock that an end_io function takes.  May sleep.
 *
 * Return: as bdev_filter_arm(), but there is memory.
 */
struct bdev_filter_hook *bdev_filter_arm_wait(struct bdev_filter *flt,
					      struct bio *bio,
					      bdev_filter_end_io_t *end_io)
{
	struct bdev_filter_hook *hook = bdev_filter_arm(flt, bio, end_io);

	if (hook || bdev_filter_protected(flt, bio))
		return hook;
	/* What has the hooks may be bios that only we would submit. */
	blk_filter_flush_processed(flt->core);
	return bdev_filter_hook_bio(flt, bio, end_io, GFP_NOIO);
}
EXPORT_SYMBOL_GPL(bdev_filter_arm_wait);

/* For a bio that goes to @target, which the caller has a reference to. */
bool blk_filter_hook_target(struct bdev_filter *flt, struct bio *bio,
			    struct bdev_filter_target *target, gfp_t gfp)
{
	struct bdev_filter_hook *hook = bdev_filter_hook_bio(flt, bio, NULL, gfp);
	struct bdev_filter_armed *armed;

	if (!hook)
		return false;
	armed = container_of(hook, struct bdev_filter_armed, hook);
	armed->target = target;
	armed->bi_bdev = bio->bi_bdev;
	return true;
}
