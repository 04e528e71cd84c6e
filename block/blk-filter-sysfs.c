// SPDX-License-Identifier: GPL-2.0
/*
 * Block device filters: the kinds that there are, and the attributes by which user
 * space attaches them.
 */
#define pr_fmt(fmt) "blk-filter: " fmt

#include <linux/blk-filter.h>
#include <linux/ctype.h>
#include <linux/kernfs.h>
#include <linux/kmod.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include "blk.h"
#include "blk-filter.h"

struct bdev_filter_kind {
	struct list_head			entry;
	const struct bdev_filter_operations	*ops;
	void					*data;
	/* One while it is on the list, and one for each that attaches it by name. */
	refcount_t				users;
	struct completion			unused;
	struct rcu_head				rcu;
};

static DEFINE_MUTEX(bdev_filter_mutex);
/* Changed under the mutex, read under RCU. */
static LIST_HEAD(bdev_filter_kinds);

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

static void bdev_filter_put_kind(struct bdev_filter_kind *kind)
{
	if (refcount_dec_and_test(&kind->users))
		complete(&kind->unused);
}

/* It is off the list: wait until nobody attaches it any more. */
static void bdev_filter_drain_kind(struct bdev_filter_kind *kind)
{
	bdev_filter_put_kind(kind);
	wait_for_completion(&kind->unused);
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
	refcount_set(&kind->users, 1);
	init_completion(&kind->unused);

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
	/*
	 * The name may be somebody else's.  Not by the address of @ops: a constant of Rust
	 * may have several.
	 */
	if (kind && kind->ops->owner != ops->owner)
		kind = NULL;
	if (!WARN_ON_ONCE(!kind))
		list_del_rcu(&kind->entry);
	mutex_unlock(&bdev_filter_mutex);
	if (!kind)
		return;

	bdev_filter_drain_kind(kind);
	/* For blk_filter_show(), which reads the name too. */
	synchronize_rcu();
	kfree(kind);
}
EXPORT_SYMBOL_GPL(bdev_filter_unregister);

#ifdef CONFIG_MODULES
/* A module goes and has left its filters registered, or its init has failed. */
static int bdev_filter_module_notify(struct notifier_block *nb,
				     unsigned long event, void *module)
{
	struct bdev_filter_kind *kind;

	if (event != MODULE_STATE_GOING)
		return NOTIFY_DONE;

	blk_filter_detach_module(module);

again:
	mutex_lock(&bdev_filter_mutex);
	list_for_each_entry(kind, &bdev_filter_kinds, entry) {
		if (kind->ops->owner != module)
			continue;
		pr_warn("%s was not unregistered\n", kind->ops->name);
		list_del_rcu(&kind->entry);
		mutex_unlock(&bdev_filter_mutex);
		/* No ->attach() runs, or the module would be pinned: it is not long. */
		bdev_filter_drain_kind(kind);
		/* Before it frees the name a module waits for a grace period. */
		kfree_rcu(kind, rcu);
		goto again;
	}
	mutex_unlock(&bdev_filter_mutex);
	return NOTIFY_OK;
}

static struct notifier_block bdev_filter_module_nb = {
	.notifier_call = bdev_filter_module_notify,
};

static int __init bdev_filter_watch_modules(void)
{
	return register_module_notifier(&bdev_filter_module_nb);
}
subsys_initcall(bdev_filter_watch_modules);
#endif

static struct bdev_filter_kind *bdev_filter_get_kind(const char *name)
{
	struct bdev_filter_kind *kind;

	mutex_lock(&bdev_filter_mutex);
	kind = bdev_filter_find(name);
	if (kind && !bdev_filter_owner_is_live(kind->ops))
		kind = NULL;
	if (kind)
		refcount_inc(&kind->users);
	mutex_unlock(&bdev_filter_mutex);
	return kind;
}

/*
 * The removal of a device waits for what runs in its attributes, unless that says that
 * it need not.  From there on @dev may be gone, and its driver with it: unlike
 * sysfs_break_active_protection() this keeps neither.
 */
static struct kernfs_node *blk_filter_leave_device(struct device *dev,
						   struct device_attribute *attr)
{
	struct kernfs_node *kn = kernfs_find_and_get(dev->kobj.sd,
						     attr->attr.name);

	if (kn)
		kernfs_break_active_protection(kn);
	return kn;
}

static void blk_filter_end_leave(struct kernfs_node *kn)
{
	kernfs_unbreak_active_protection(kn);
	kernfs_put(kn);
}

/* Load the module of a filter; the device may be gone afterwards, so start again. */
static int blk_filter_load(struct device *dev, struct device_attribute *attr,
			   const char *name)
{
	struct kernfs_node *kn = blk_filter_leave_device(dev, attr);
	struct bdev_filter_kind *kind;

	if (!kn)
		return -ENODEV;
	/* Registers from module init: no lock may be held here. */
	request_module("blkfilter-%s", name);
	blk_filter_end_leave(kn);
	kind = bdev_filter_get_kind(name);
	if (!kind)
		return -ENOENT;
	bdev_filter_put_kind(kind);
	return restart_syscall();
}

static int blk_filter_attach_name(struct device *dev,
				  struct device_attribute *attr,
				  const char *name, const char *options)
{
	struct block_device *bdev = dev_to_bdev(dev);
	struct module *driver = bdev->bd_disk->fops->owner;
	struct bdev_filter_kind *kind = bdev_filter_get_kind(name);
	struct bdev_filter *flt = ERR_PTR(-ENODEV);
	struct kernfs_node *kn;

	if (!kind)
		return blk_filter_load(dev, attr, name);
	/*
	 * ->attach() may open devices of this disk, and the removal of a partition waits
	 * for its attributes with open_mutex held.  So it must not wait for us.  This
	 * also gets a reference to the device, which needs its driver to be put.
	 */
	if (!try_module_get(driver))
		goto out;
	kn = sysfs_break_active_protection(&dev->kobj, &attr->attr);
	if (kn) {
		flt = bdev_filter_attach(bdev, kind->ops, kind->data, options);
		sysfs_unbreak_active_protection(kn);
	}
	module_put(driver);
out:
	bdev_filter_put_kind(kind);
	if (IS_ERR(flt))
		return PTR_ERR(flt);
	bdev_filter_put_handle(flt);
	return 0;
}

static int blk_filter_detach_any(struct device *dev,
				 struct device_attribute *attr)
{
	struct block_device *bdev = dev_to_bdev(dev);
	struct bdev_filter_core *core;
	struct kernfs_node *kn;
	int ret = 0;

	rcu_read_lock();
	core = rcu_dereference(bdev->bd_filter);
	/* In its slot it has its own handle, and a reader keeps it there. */
	if (core)
		refcount_inc(&core->handles);
	rcu_read_unlock();
	if (!core)
		return 0;

	bdev_filter_start_detach(bdev, core);
	kn = blk_filter_leave_device(dev, attr);
	if (kn) {
		ret = bdev_filter_wait_released(core, true);
		blk_filter_end_leave(kn);
	}
	bdev_filter_put_core(core);
	return ret;
}

static ssize_t blk_filter_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct block_device *bdev = dev_to_bdev(dev);
	struct bdev_filter_kind *kind;
	struct bdev_filter_core *core;
	const char *current_name = "none";
	bool listed = false;
	int len = 0;

	rcu_read_lock();
	core = rcu_dereference(bdev->bd_filter);
	if (core)
		current_name = core->flt->name;
	len += sysfs_emit_at(buf, len, core ? "none" : "[none]");
	list_for_each_entry_rcu(kind, &bdev_filter_kinds, entry) {
		bool match = !strcmp(kind->ops->name, current_name);

		len += sysfs_emit_at(buf, len, match ? " [%s]" : " %s",
				     kind->ops->name);
		listed |= match;
	}
	/* It may be attached but not registered any more. */
	if (core && !listed)
		len += sysfs_emit_at(buf, len, " [%s]", current_name);
	rcu_read_unlock();

	return len + sysfs_emit_at(buf, len, "\n");
}

static ssize_t blk_filter_store(struct device *dev,
				struct device_attribute *attr,
				const char *buf, size_t count)
{
	char disk_name[DISK_NAME_LEN + 8];
	char *copy, *options, *name;
	bool detach = false;
	int ret;

	/* For the log: the device may be gone at the end. */
	strscpy(disk_name, dev_name(dev));
	if (!capable(CAP_SYS_ADMIN)) {
		ret = -EPERM;
		goto out;
	}

	copy = kmemdup_nul(buf, count, GFP_KERNEL);
	if (!copy) {
		ret = -ENOMEM;
		goto out;
	}
	options = strim(copy);
	name = strsep(&options, " \t\n");
	options = options ? skip_spaces(options) : "";
	detach = !strcmp(name, "none");
	ret = -EINVAL;
	if (strlen(buf) != count || (detach && *options) ||
	    (!detach && !bdev_filter_name_valid(name)))
		goto out_free;

	/* Each gives up the active reference before it waits for long. */
	ret = detach ? blk_filter_detach_any(dev, attr) :
		       blk_filter_attach_name(dev, attr, name, options);
out_free:
	kfree(copy);
out:
	if (ret && ret != -ERESTARTNOINTR)
		pr_warn_ratelimited("%s: %s failed: %pe\n", disk_name,
				    detach ? "detach" : "attach", ERR_PTR(ret));
	return ret ?: count;
}

struct device_attribute dev_attr_filter =
	__ATTR(filter, 0644, blk_filter_show, blk_filter_store);

/* Bios seen, bios taken, and what keeps the filter busy now. */
static ssize_t blk_filter_stat_show(struct device *dev,
				    struct device_attribute *attr, char *buf)
{
	struct block_device *bdev = dev_to_bdev(dev);
	unsigned long seen = 0, taken = 0;
	unsigned int in_flight = 0;
	struct bdev_filter_core *core;
	int cpu;

	rcu_read_lock();
	core = rcu_dereference(bdev->bd_filter);
	if (core) {
		for_each_possible_cpu(cpu) {
			seen += per_cpu_ptr(core->pcpu, cpu)->seen;
			taken += per_cpu_ptr(core->pcpu, cpu)->taken;
		}
		in_flight = max(blk_filter_in_use(core) - 1, 0);
	}
	rcu_read_unlock();
	return sysfs_emit(buf, "%lu %lu %u\n", seen, taken, in_flight);
}

struct device_attribute dev_attr_filter_stat =
	__ATTR(filter_stat, 0444, blk_filter_stat_show, NULL);
