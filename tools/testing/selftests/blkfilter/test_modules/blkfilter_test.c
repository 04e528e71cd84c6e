// SPDX-License-Identifier: GPL-2.0
/*
 * A block device filter for the selftests.
 *
 * Does with each bio what /sys/kernel/debug/blkfilter_test/mode says:
 *
 *   pass      lets it go on
 *   hold      takes it and keeps it until 1 is written to "release"
 *   resubmit  takes it and resubmits it from a work item
 *   end       takes it and ends it with an I/O error from a work item
 *   slow      delays it for 200 ms inside ->submit_bio, then lets it go on
 *
 * "seen", "held", "attached", "detached", "removed" and "released" count.
 * "late" counts calls of ->submit_bio after ->detached, and must stay 0.
 */
#include <linux/bio.h>
#include <linux/blk-filter.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/module.h>

enum mode { MODE_PASS, MODE_HOLD, MODE_RESUBMIT, MODE_END, MODE_SLOW };

static const char * const mode_names[] = {
	[MODE_PASS]	= "pass",
	[MODE_HOLD]	= "hold",
	[MODE_RESUBMIT]	= "resubmit",
	[MODE_END]	= "end",
	[MODE_SLOW]	= "slow",
};

static enum mode mode;
static atomic_t seen, held, attached, detached, removed, released, late;
static struct dentry *debugfs_dir;

struct test_filter {
	struct bdev_filter flt;	/* first */
	spinlock_t lock;
	struct bio_list bios;
	struct work_struct work;
	struct list_head entry;
	bool gone;
};

/* All filters, for "release". */
static DEFINE_MUTEX(filters_lock);
static LIST_HEAD(filters);

static struct test_filter *to_test(struct bdev_filter *flt)
{
	return container_of(flt, struct test_filter, flt);
}

static void finish_all(struct test_filter *tf)
{
	struct bio_list bios;
	struct bio *bio;

	spin_lock_irq(&tf->lock);
	bios = tf->bios;
	bio_list_init(&tf->bios);
	spin_unlock_irq(&tf->lock);

	while ((bio = bio_list_pop(&bios))) {
		atomic_dec(&held);
		/* The last one may make the filter, and tf with it, go away. */
		if (mode == MODE_END)
			bdev_filter_endio(&tf->flt, bio, BLK_STS_IOERR);
		else
			bdev_filter_resubmit(&tf->flt, bio);
	}
}

static void finish_work(struct work_struct *work)
{
	struct test_filter *tf = container_of(work, struct test_filter, work);

	finish_all(tf);
}

static int test_attach(struct bdev_filter *flt, void *data)
{
	struct test_filter *tf = to_test(flt);

	if (data != &filters)
		return -ENOTRECOVERABLE;
	spin_lock_init(&tf->lock);
	bio_list_init(&tf->bios);
	INIT_WORK(&tf->work, finish_work);
	mutex_lock(&filters_lock);
	list_add(&tf->entry, &filters);
	mutex_unlock(&filters_lock);
	atomic_inc(&attached);
	return 0;
}

static enum bdev_filter_verdict test_submit_bio(struct bdev_filter *flt,
						struct bio *bio)
{
	struct test_filter *tf = to_test(flt);
	unsigned long flags;

	atomic_inc(&seen);
	if (READ_ONCE(tf->gone))
		atomic_inc(&late);

	switch (READ_ONCE(mode)) {
	case MODE_PASS:
		return BDEV_FILTER_PASS;
	case MODE_SLOW:
		mdelay(200);
		if (READ_ONCE(tf->gone))
			atomic_inc(&late);
		return BDEV_FILTER_PASS;
	default:
		break;
	}

	bdev_filter_take(flt, bio);
	atomic_inc(&held);
	spin_lock_irqsave(&tf->lock, flags);
	bio_list_add(&tf->bios, bio);
	spin_unlock_irqrestore(&tf->lock, flags);
	if (mode != MODE_HOLD)
		schedule_work(&tf->work);
	return BDEV_FILTER_TAKEN;
}

static void test_detached(struct bdev_filter *flt,
			  enum bdev_filter_reason reason)
{
	WRITE_ONCE(to_test(flt)->gone, true);
	atomic_inc(reason == BDEV_FILTER_REMOVED ? &removed : &detached);
}

static void test_release(struct bdev_filter *flt)
{
	struct test_filter *tf = to_test(flt);

	cancel_work_sync(&tf->work);
	WARN_ON(!bio_list_empty(&tf->bios));
	mutex_lock(&filters_lock);
	list_del(&tf->entry);
	mutex_unlock(&filters_lock);
	atomic_inc(&released);
}

static const struct bdev_filter_operations test_ops = {
	.name		= "blkfilter_test",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct test_filter),
	.attach		= test_attach,
	.submit_bio	= test_submit_bio,
	.detached	= test_detached,
	.release	= test_release,
};

static ssize_t mode_read(struct file *file, char __user *buf, size_t count,
			 loff_t *ppos)
{
	const char *name = mode_names[mode];

	return simple_read_from_buffer(buf, count, ppos, name, strlen(name));
}

static ssize_t mode_write(struct file *file, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	char name[16] = "";
	int ret;

	if (count >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, buf, count))
		return -EFAULT;
	ret = sysfs_match_string(mode_names, name);
	if (ret < 0)
		return ret;
	WRITE_ONCE(mode, ret);
	return count;
}

static const struct file_operations mode_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= mode_read,
	.write	= mode_write,
};

static int release_set(void *data, u64 val)
{
	struct test_filter *tf;

	/* Finishing may release a filter, which takes the mutex: use work. */
	mutex_lock(&filters_lock);
	list_for_each_entry(tf, &filters, entry)
		schedule_work(&tf->work);
	mutex_unlock(&filters_lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(release_fops, NULL, release_set, "%llu\n");

static int __init blkfilter_test_init(void)
{
	int ret;

	/* Operations that must be refused. */
	static const struct bdev_filter_operations bad[] = {
		{ .name = "none", .size = sizeof(struct bdev_filter),
		  .submit_bio = test_submit_bio },
		{ .name = "a[b", .size = sizeof(struct bdev_filter),
		  .submit_bio = test_submit_bio },
		{ .name = "", .size = sizeof(struct bdev_filter),
		  .submit_bio = test_submit_bio },
		{ .name = "small", .size = 8, .submit_bio = test_submit_bio },
		{ .name = "no_submit", .size = sizeof(struct bdev_filter) },
	};

	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		ret = bdev_filter_register(&bad[i], NULL);
		if (ret != -EINVAL) {
			pr_err("bad operations %d were not refused: %d\n", i,
			       ret);
			return -ENOTRECOVERABLE;
		}
	}

	ret = bdev_filter_register(&test_ops, &filters);
	if (ret)
		return ret;
	ret = bdev_filter_register(&test_ops, &filters);
	if (ret != -EEXIST) {
		pr_err("a name could be registered twice: %d\n", ret);
		bdev_filter_unregister(&test_ops);
		return -ENOTRECOVERABLE;
	}

	debugfs_dir = debugfs_create_dir("blkfilter_test", NULL);
	debugfs_create_file("mode", 0600, debugfs_dir, NULL, &mode_fops);
	debugfs_create_file_unsafe("release", 0200, debugfs_dir, NULL,
				   &release_fops);
	debugfs_create_atomic_t("seen", 0600, debugfs_dir, &seen);
	debugfs_create_atomic_t("held", 0400, debugfs_dir, &held);
	debugfs_create_atomic_t("attached", 0600, debugfs_dir, &attached);
	debugfs_create_atomic_t("detached", 0600, debugfs_dir, &detached);
	debugfs_create_atomic_t("removed", 0600, debugfs_dir, &removed);
	debugfs_create_atomic_t("released", 0600, debugfs_dir, &released);
	debugfs_create_atomic_t("late", 0600, debugfs_dir, &late);
	return 0;
}

static void __exit blkfilter_test_exit(void)
{
	debugfs_remove(debugfs_dir);
	bdev_filter_unregister(&test_ops);
}

module_init(blkfilter_test_init);
module_exit(blkfilter_test_exit);
MODULE_ALIAS("blkfilter-blkfilter_test");
MODULE_DESCRIPTION("Block device filter for the selftests");
MODULE_AUTHOR("blkfilter developers");
MODULE_LICENSE("GPL");
