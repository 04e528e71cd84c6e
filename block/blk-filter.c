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
 * ->submit_bio there: it takes no reference and writes nothing.  The pointer
 * stays good until the reference of the slot is dropped, which is always after
 * a grace period.
 *
 * flt->refs counts what keeps a filter working: the slot, each bio it took, and
 * the short-lived users of bdev_filter_get().  Taking is a plain increment: it
 * happens inside ->submit_bio, where the slot's reference is there.  The last
 * put queues release_work, never releases in place, as it may come from a
 * completion in interrupt context.  The release drops the module reference that
 * attach took: it is the core that does it, so no module text runs after it.
 *
 * flt->handles counts what keeps only the memory: one for the filter itself
 * until it is released, and one for each detacher that waits for that.
 *
 * flt->bdev leads from a filter to its device, for detach only.  It is cleared
 * by removal, and read under rcu_read_lock(): the memory of a block_device is
 * freed after a grace period that starts after it left bd_filter (evict), so a
 * reader that still sees the pointer can look at the device, and gets a
 * reference to it or learns that it is going away.  A filter pins nothing of
 * its device.
 *
 * A queue freeze plays no part in any of this: it does not drain the hook, and
 * for devices with a ->submit_bio method it never did.
 *
 * Lock order
 * ----------
 *
 * bdev_filter_mutex: the list of registered kinds, and all of an attach.
 *   disk->filter_lock: the slots of a disk and its partitions, with
 *	BD_FILTERED and the check that the device is not going away.  A leaf:
 *	nothing sleeps for I/O or a grace period under it.
 *
 * Removal holds disk->open_mutex and takes filter_lock only.  The sysfs
 * attribute gives up its active reference before it takes any lock or waits,
 * so device_del() never waits for an attach or detach.
 */
#define pr_fmt(fmt) "blk-filter: " fmt

#include <linux/blk-filter.h>
#include <linux/blk-integrity.h>
#include <linux/ctype.h>
#include <linux/kmod.h>
#include "blk.h"
#include "blk-filter.h"

/* Ask again how a detach is going after this long. */
#define BDEV_FILTER_WAIT	(10 * HZ)

struct bdev_filter_kind {
	struct list_head			entry;
	const struct bdev_filter_operations	*ops;
	void					*data;
};

DEFINE_STATIC_KEY_FALSE(blk_filter_key);

static DEFINE_MUTEX(bdev_filter_mutex);
static LIST_HEAD(bdev_filter_kinds);
static struct workqueue_struct *bdev_filter_wq;

static enum bdev_filter_verdict bdev_filter_call(struct block_device *bdev,
						 struct bio *bio)
{
	enum bdev_filter_verdict verdict = BDEV_FILTER_PASS;
	struct bdev_filter *flt;

	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt)
		verdict = flt->ops->submit_bio(flt, bio);
	rcu_read_unlock();

	/* ->bi_end_io may not expect to be called in an RCU read section. */
	if (verdict == BDEV_FILTER_END)
		bio_endio(bio);
	return verdict;
}

bool __blk_filter_bio(struct bio *bio)
{
	struct block_device *bdev = bio->bi_bdev;

	bio_set_flag(bio, BIO_FILTERED);
	if (bdev_is_partition(bdev) && bdev_filter_call(bdev, bio))
		return true;
	return bdev_filter_call(bdev_whole(bdev), bio);
}

/**
 * bdev_filter_take - take ownership of a bio
 * @flt: the filter
 * @bio: the bio passed to its ->submit_bio()
 *
 * To be called from ->submit_bio() before anyone else can see the bio; that
 * method then returns %BDEV_FILTER_TAKEN.  From here on the filter has to finish
 * the bio exactly once, with bdev_filter_endio() or bdev_filter_resubmit().
 *
 * Any context.
 */
void bdev_filter_take(struct bdev_filter *flt, struct bio *bio)
{
	refcount_inc(&flt->refs);
	/* Nobody polls for a bio that is not on a hardware queue. */
	bio_clear_polled(bio);
}
EXPORT_SYMBOL_GPL(bdev_filter_take);

/**
 * bdev_filter_endio - end a bio that was taken
 * @flt: filter that took it
 * @bio: the bio
 * @status: status it ends with
 *
 * Any context but the filter's own ->submit_bio(), see bdev_filter_end().
 * Neither @bio nor @flt may be used afterwards.
 */
void bdev_filter_endio(struct bdev_filter *flt, struct bio *bio,
		       blk_status_t status)
{
	/* Part of the bio may have been split off and failed before. */
	if (status)
		bio->bi_status = status;
	bio_endio(bio);
	bdev_filter_put(flt);
}
EXPORT_SYMBOL_GPL(bdev_filter_endio);

/**
 * bdev_filter_resubmit - let a bio that was taken go on
 * @flt: filter that took it
 * @bio: the bio
 *
 * The bio goes on below @flt: to the filter of the whole disk if @flt is that
 * of a partition, then to the device.  Neither @bio nor @flt may be used
 * afterwards.
 *
 * Process context, may sleep.
 */
void bdev_filter_resubmit(struct bdev_filter *flt, struct bio *bio)
{
	might_sleep();

	if (!flt->on_partition || !bdev_is_partition(bio->bi_bdev) ||
	    !bdev_filter_call(bdev_whole(bio->bi_bdev), bio))
		submit_bio_noacct_nocheck(bio, false);
	bdev_filter_put(flt);
}
EXPORT_SYMBOL_GPL(bdev_filter_resubmit);

static void bdev_filter_put_handle(struct bdev_filter *flt)
{
	if (refcount_dec_and_test(&flt->handles))
		kfree(flt);
}

/* Undo what bdev_filter_create() did; the last that happens to a filter. */
static void bdev_filter_destroy(struct bdev_filter *flt)
{
	struct module *owner = flt->ops->owner;

	if (flt->ops->release)
		flt->ops->release(flt);
	static_branch_dec(&blk_filter_key);
	module_put(owner);
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
	if (refcount_dec_and_test(&flt->refs))
		queue_work(bdev_filter_wq, &flt->release_work);
}
EXPORT_SYMBOL_GPL(bdev_filter_put);

/*
 * The rest of a detach, for whoever took @flt out of its slot: after the grace
 * period nobody is in ->submit_bio() any more, so what is owned can only become
 * less, and the reference of the slot can go.
 */
static void bdev_filter_finish(struct bdev_filter *flt,
			       enum bdev_filter_reason reason)
{
	synchronize_rcu();
	if (flt->ops->detached)
		flt->ops->detached(flt, reason);
	bdev_filter_put(flt);
}

static void bdev_filter_remove_work(struct work_struct *work)
{
	bdev_filter_finish(container_of(work, struct bdev_filter, remove_work),
			   BDEV_FILTER_REMOVED);
}

static bool bdev_filter_publish(struct block_device *bdev,
				struct bdev_filter *flt)
{
	return !unrcu_pointer(cmpxchg(&bdev->bd_filter, NULL,
				      RCU_INITIALIZER(flt)));
}

static bool bdev_filter_unpublish(struct block_device *bdev,
				  struct bdev_filter *flt)
{
	return unrcu_pointer(cmpxchg(&bdev->bd_filter, RCU_INITIALIZER(flt),
				     NULL)) == flt;
}

/*
 * BD_FILTERED sends a bio to the slow path: the bdev has a filter or its disk
 * has.  Bring all of a disk up to date after one of its slots changed.
 */
static void blk_filter_update_flags(struct gendisk *disk)
{
	bool all = rcu_access_pointer(disk->part0->bd_filter);
	struct block_device *part;
	unsigned long idx;

	lockdep_assert_held(&disk->filter_lock);

	rcu_read_lock();
	xa_for_each(&disk->part_tbl, idx, part) {
		if (all || rcu_access_pointer(part->bd_filter))
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
	blk_filter_update_flags(disk);
	mutex_unlock(&disk->filter_lock);
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
	struct bdev_filter *flt;

	mutex_lock(&disk->filter_lock);
	flt = rcu_dereference_protected(bdev->bd_filter,
					lockdep_is_held(&disk->filter_lock));
	if (flt && bdev_filter_unpublish(bdev, flt)) {
		RCU_INIT_POINTER(flt->bdev, NULL);
		blk_filter_update_flags(disk);
		queue_work(bdev_filter_wq, &flt->remove_work);
	}
	mutex_unlock(&disk->filter_lock);
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
	if (bdev_filter_unpublish(bdev, flt)) {
		RCU_INIT_POINTER(flt->bdev, NULL);
		queue_work(bdev_filter_wq, &flt->remove_work);
	}
}

/*
 * Wait until a filter that left its slot has been released.  A fatal signal
 * ends the wait, not the detach.
 */
static int bdev_filter_wait(struct bdev_filter *flt)
{
	bool told = false;
	long ret;

	for (;;) {
		ret = wait_for_completion_killable_timeout(&flt->released,
							   BDEV_FILTER_WAIT);
		if (ret > 0)
			return 0;
		if (ret < 0)
			return -EINTR;
		if (!told)
			pr_warn("%s: detach of %s waits for %u bios\n",
				flt->dev_name, flt->ops->name,
				refcount_read(&flt->refs));
		told = true;
	}
}

/*
 * Detach @flt from its device, unless somebody else does, and wait until it has
 * been released.  The caller holds a handle.
 */
static int bdev_filter_detach(struct bdev_filter *flt)
{
	struct block_device *bdev;
	bool won = false;

	rcu_read_lock();
	bdev = rcu_dereference(flt->bdev);
	if (bdev && !kobject_get_unless_zero(bdev_kobj(bdev)))
		bdev = NULL;
	rcu_read_unlock();

	if (bdev) {
		struct gendisk *disk = bdev->bd_disk;

		mutex_lock(&disk->filter_lock);
		won = bdev_filter_unpublish(bdev, flt);
		if (won)
			blk_filter_update_flags(disk);
		mutex_unlock(&disk->filter_lock);
		put_device(&bdev->bd_device);
	}

	if (won)
		bdev_filter_finish(flt, BDEV_FILTER_DETACHED);
	return bdev_filter_wait(flt);
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

/*
 * Encrypted data, protected data and zones come with rules of their own that
 * no filter knows yet.
 */
static bool blk_filter_supported(struct block_device *bdev)
{
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	if (bdev_get_queue(bdev)->crypto_profile)
		return false;
#endif
	return !bdev_is_zoned(bdev) && !blk_get_integrity(bdev->bd_disk);
}

/* Why @bdev can't have a filter called @name: it has one. */
static int bdev_filter_check_slot(struct block_device *bdev, const char *name)
{
	struct bdev_filter *flt;
	int ret = 0;

	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt)
		ret = strcmp(flt->ops->name, name) ? -EBUSY : -EALREADY;
	rcu_read_unlock();
	return ret;
}

static struct bdev_filter *bdev_filter_create(struct block_device *bdev,
					      struct bdev_filter_kind *kind)
{
	const struct bdev_filter_operations *ops = kind->ops;
	struct bdev_filter *flt;
	int ret;

	/* It is registered but being unloaded: as good as not there. */
	if (!try_module_get(ops->owner))
		return ERR_PTR(-ENOENT);

	ret = -ENOMEM;
	flt = kzalloc(ops->size, GFP_KERNEL);
	if (!flt)
		goto out_put_module;

	flt->ops = ops;
	snprintf(flt->dev_name, sizeof(flt->dev_name), "%pg", bdev);
	RCU_INIT_POINTER(flt->bdev, bdev);
	refcount_set(&flt->refs, 1);
	refcount_set(&flt->handles, 1);
	flt->on_partition = bdev_is_partition(bdev);
	init_completion(&flt->released);
	INIT_WORK(&flt->remove_work, bdev_filter_remove_work);
	INIT_WORK(&flt->release_work, bdev_filter_release_work);

	if (ops->attach) {
		ret = ops->attach(flt, kind->data);
		if (ret)
			goto out_free;
	}

	/* Before it is published: a filter in a slot is never overlooked. */
	static_branch_inc(&blk_filter_key);
	return flt;

out_free:
	kfree(flt);
out_put_module:
	module_put(ops->owner);
	return ERR_PTR(ret);
}

/* The caller holds a reference to the device. */
static int bdev_filter_attach(struct block_device *bdev,
			      struct bdev_filter_kind *kind)
{
	struct gendisk *disk = bdev->bd_disk;
	struct bdev_filter *flt;
	int ret;

	lockdep_assert_held(&bdev_filter_mutex);

	ret = bdev_filter_check_slot(bdev, kind->ops->name);
	if (ret)
		return ret;

	flt = bdev_filter_create(bdev, kind);
	if (IS_ERR(flt))
		return PTR_ERR(flt);

	mutex_lock(&disk->filter_lock);
	if (!blk_filter_may_attach(bdev))
		ret = -ENODEV;
	else if (!blk_filter_supported(bdev))
		ret = -EOPNOTSUPP;
	else if (!bdev_filter_publish(bdev, flt))
		ret = bdev_filter_check_slot(bdev, kind->ops->name) ?: -EBUSY;
	else
		blk_filter_update_flags(disk);
	mutex_unlock(&disk->filter_lock);

	if (ret)
		bdev_filter_destroy(flt);
	return ret;
}

static bool bdev_filter_name_valid(const char *name)
{
	size_t len = strnlen(name, BDEV_FILTER_NAME_LEN);
	size_t i;

	if (!len || len == BDEV_FILTER_NAME_LEN || !strcmp(name, "none"))
		return false;
	for (i = 0; i < len; i++)
		if (!isascii(name[i]) || !isgraph(name[i]) ||
		    name[i] == '[' || name[i] == ']')
			return false;
	return true;
}

static struct bdev_filter_kind *bdev_filter_find(const char *name)
{
	struct bdev_filter_kind *kind;

	lockdep_assert_held(&bdev_filter_mutex);

	list_for_each_entry(kind, &bdev_filter_kinds, entry)
		if (!strcmp(kind->ops->name, name))
			return kind;
	return NULL;
}

/**
 * bdev_filter_register - make a kind of filter known
 * @ops: its methods, which stay valid until bdev_filter_unregister()
 * @data: passed to its ->attach()
 *
 * Makes the name appear in the ``filter`` attribute of block devices.
 *
 * Process context, may sleep.
 *
 * Return: 0, -EINVAL if @ops lacks a valid name, a size or ->submit_bio(),
 * -EEXIST if the name is taken, -ENOMEM.
 */
int bdev_filter_register(const struct bdev_filter_operations *ops, void *data)
{
	struct bdev_filter_kind *kind;
	int ret = 0;

	if (!ops->name || !bdev_filter_name_valid(ops->name) ||
	    !ops->submit_bio || ops->size < sizeof(struct bdev_filter))
		return -EINVAL;

	kind = kzalloc_obj(*kind);
	if (!kind)
		return -ENOMEM;
	kind->ops = ops;
	kind->data = data;

	mutex_lock(&bdev_filter_mutex);
	if (bdev_filter_find(ops->name))
		ret = -EEXIST;
	else
		list_add_tail_rcu(&kind->entry, &bdev_filter_kinds);
	mutex_unlock(&bdev_filter_mutex);

	if (ret)
		kfree(kind);
	return ret;
}
EXPORT_SYMBOL_GPL(bdev_filter_register);

/**
 * bdev_filter_unregister - forget a kind of filter
 * @ops: what was given to bdev_filter_register()
 *
 * When this returns no ->attach() runs and none will.  Filters of this kind that
 * are attached stay so, and keep their module from being unloaded.
 *
 * Process context, may sleep.
 */
void bdev_filter_unregister(const struct bdev_filter_operations *ops)
{
	struct bdev_filter_kind *kind;

	mutex_lock(&bdev_filter_mutex);
	kind = bdev_filter_find(ops->name);
	if (!WARN_ON_ONCE(!kind))
		list_del_rcu(&kind->entry);
	mutex_unlock(&bdev_filter_mutex);

	/* For blk_filter_show(), which reads the name too. */
	synchronize_rcu();
	kfree(kind);
}
EXPORT_SYMBOL_GPL(bdev_filter_unregister);

static int blk_filter_attach_name(struct block_device *bdev, const char *name)
{
	struct bdev_filter_kind *kind;
	bool loaded = false;
	int ret;

	for (;;) {
		mutex_lock(&bdev_filter_mutex);
		kind = bdev_filter_find(name);
		ret = kind ? bdev_filter_attach(bdev, kind) : -ENOENT;
		mutex_unlock(&bdev_filter_mutex);
		if (kind || loaded)
			return ret;
		/* Registers from module init: no lock may be held here. */
		request_module("blkfilter-%s", name);
		loaded = true;
	}
}

static int blk_filter_detach_any(struct block_device *bdev)
{
	struct bdev_filter *flt = bdev_filter_get(bdev);
	int ret;

	if (!flt)
		return 0;

	/* A reference would be waited for. */
	refcount_inc(&flt->handles);
	bdev_filter_put(flt);
	ret = bdev_filter_detach(flt);
	bdev_filter_put_handle(flt);
	return ret;
}

static ssize_t blk_filter_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct block_device *bdev = dev_to_bdev(dev);
	struct bdev_filter_kind *kind;
	struct bdev_filter *flt;
	const char *current_name = "none";
	bool listed = false;
	int len = 0;

	rcu_read_lock();
	flt = rcu_dereference(bdev->bd_filter);
	if (flt)
		current_name = flt->ops->name;
	len += sysfs_emit_at(buf, len, flt ? "none" : "[none]");
	list_for_each_entry_rcu(kind, &bdev_filter_kinds, entry) {
		bool match = !strcmp(kind->ops->name, current_name);

		len += sysfs_emit_at(buf, len, match ? " [%s]" : " %s",
				     kind->ops->name);
		listed |= match;
	}
	/* It may be attached but not registered any more. */
	if (flt && !listed)
		len += sysfs_emit_at(buf, len, " [%s]", current_name);
	rcu_read_unlock();

	return len + sysfs_emit_at(buf, len, "\n");
}

static ssize_t blk_filter_store(struct device *dev,
				struct device_attribute *attr,
				const char *buf, size_t count)
{
	struct block_device *bdev = dev_to_bdev(dev);
	char copy[BDEV_FILTER_NAME_LEN + 2], *name;
	bool detach = false;
	struct kernfs_node *kn;
	int ret;

	if (!capable(CAP_SYS_ADMIN)) {
		ret = -EPERM;
		goto out;
	}

	/* One byte more than the longest name and its newline shows it off. */
	strscpy(copy, buf);
	name = strim(copy);
	detach = !strcmp(name, "none");
	if (strlen(buf) != count || count >= sizeof(copy) ||
	    (!detach && !bdev_filter_name_valid(name))) {
		ret = -EINVAL;
		goto out;
	}

	/*
	 * Loading a module takes as long as it likes, and so do the bios that a
	 * filter owns.  Removal of the device must not wait for either.  This
	 * also gets a reference to the device.
	 */
	kn = sysfs_break_active_protection(&dev->kobj, &attr->attr);
	if (!kn)
		return -ENODEV;
	ret = detach ? blk_filter_detach_any(bdev) :
		       blk_filter_attach_name(bdev, name);
	sysfs_unbreak_active_protection(kn);
out:
	if (ret)
		pr_warn_ratelimited("%pg: %s failed: %pe\n", bdev,
				    detach ? "detach" : "attach", ERR_PTR(ret));
	return ret ?: count;
}

struct device_attribute dev_attr_filter =
	__ATTR(filter, 0644, blk_filter_show, blk_filter_store);

static int __init blk_filter_init(void)
{
	bdev_filter_wq = alloc_workqueue("blk-filter",
					 WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!bdev_filter_wq)
		panic("Failed to create the blk-filter workqueue\n");
	return 0;
}
subsys_initcall(blk_filter_init);
