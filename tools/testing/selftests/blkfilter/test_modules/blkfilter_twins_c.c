// SPDX-License-Identifier: GPL-2.0
/*
 * The same filters as in blkfilter_twins_rust.rs, in C: what they do and what that
 * costs can be compared.
 *
 *   c_pass   lets each bio go on
 *   c_count  counts bios and bytes by operation, and lets them go on
 *   c_defer  defers each bio, and resubmits it
 *   c_hook   hooks the completion of each bio, and counts those that end well
 *
 * /sys/kernel/debug/blkfilter_twins_c/stats has what c_count and c_hook counted.
 */
#include <linux/blk-filter.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static atomic64_t bios[3], bytes[3], completed;
static struct dentry *dir;

static enum bdev_filter_verdict pass(struct bdev_filter *flt, struct bio *bio)
{
	return BDEV_FILTER_PASS;
}

static enum bdev_filter_verdict count(struct bdev_filter *flt, struct bio *bio)
{
	unsigned int kind = 2;

	if (bio_op(bio) == REQ_OP_READ)
		kind = 0;
	else if (bio_op(bio) == REQ_OP_WRITE)
		kind = 1;
	atomic64_inc(&bios[kind]);
	atomic64_add(bio->bi_iter.bi_size, &bytes[kind]);
	return BDEV_FILTER_PASS;
}

static enum bdev_filter_verdict defer(struct bdev_filter *flt, struct bio *bio)
{
	if (!bdev_filter_take(flt, bio))
		return BDEV_FILTER_PASS;
	bdev_filter_defer(flt, bio);
	return BDEV_FILTER_TAKEN;
}

static void hook_end_io(struct bdev_filter *flt, struct bio *bio,
			struct bdev_filter_hook *hook)
{
	if (!bio->bi_status)
		atomic64_inc(&completed);
}

static enum bdev_filter_verdict hook(struct bdev_filter *flt, struct bio *bio)
{
	bdev_filter_arm(flt, bio, hook_end_io);
	return BDEV_FILTER_PASS;
}

static const struct bdev_filter_operations twins[] = {
	{
		.name		= "c_pass",
		.owner		= THIS_MODULE,
		.size		= sizeof(struct bdev_filter),
		.submit_bio	= pass,
	},
	{
		.name		= "c_count",
		.owner		= THIS_MODULE,
		.size		= sizeof(struct bdev_filter),
		.submit_bio	= count,
	},
	{
		.name		= "c_defer",
		.owner		= THIS_MODULE,
		.size		= sizeof(struct bdev_filter),
		.flags		= BDEV_FILTER_TAKES,
		.submit_bio	= defer,
	},
	{
		.name		= "c_hook",
		.owner		= THIS_MODULE,
		.size		= sizeof(struct bdev_filter),
		.flags		= BDEV_FILTER_ARMS,
		.submit_bio	= hook,
	},
};

static int twins_show(struct seq_file *m, void *v)
{
	static const char * const names[] = { "read", "write", "other" };

	for (int i = 0; i < ARRAY_SIZE(names); i++)
		seq_printf(m, "%s %llu %llu\n", names[i],
			   (u64)atomic64_read(&bios[i]),
			   (u64)atomic64_read(&bytes[i]));
	seq_printf(m, "completed %llu\n", (u64)atomic64_read(&completed));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(twins);

static int __init blkfilter_twins_init(void)
{
	for (int i = 0; i < ARRAY_SIZE(twins); i++) {
		int ret = bdev_filter_register(&twins[i], NULL);

		if (ret) {
			while (i--)
				bdev_filter_unregister(&twins[i]);
			return ret;
		}
	}
	dir = debugfs_create_dir("blkfilter_twins_c", NULL);
	debugfs_create_file("stats", 0400, dir, NULL, &twins_fops);
	return 0;
}

static void __exit blkfilter_twins_exit(void)
{
	debugfs_remove(dir);
	for (int i = 0; i < ARRAY_SIZE(twins); i++)
		bdev_filter_unregister(&twins[i]);
}

module_init(blkfilter_twins_init);
module_exit(blkfilter_twins_exit);
MODULE_DESCRIPTION("Block device filters to be compared, in C");
MODULE_LICENSE("GPL");
