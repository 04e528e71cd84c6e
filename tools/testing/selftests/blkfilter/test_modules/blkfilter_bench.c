// SPDX-License-Identifier: GPL-2.0
/*
 * What a bio costs, for the selftests of block device filters.
 *
 * Writing one of these to /sys/kernel/debug/blkfilter_bench takes times:
 *
 *   <device> <count>         reads the first sector of the device count times, one
 *                            bio after the other, and takes the time of each
 *   <device> <count> write   writes 4 KiB instead, each time to another place in
 *                            the first 16 MiB
 *   <device> <count> cpus=N  reads count times on each of N CPUs at the same time,
 *                            and takes the time of all, divided by their number
 *   <device> <count> attach  attaches a filter and detaches it, and takes the time
 *                            of the former
 *   <device> <count> detach  the same, of the latter
 *   loop <count>             count loops of count iterations of two instructions
 *                            each, to calibrate
 *   rcu <count>              count grace periods
 *
 * Reading it returns the median, the mean and the 99th percentile of the last run,
 * in nanoseconds, with the time that taking the time takes taken off.  In an
 * emulator that counts instructions a nanosecond is an instruction.
 *
 * "<device> <count> stack" is of the same form, but what is read are bytes of stack
 * between the submission of a bio and the filter.
 */
#include <linux/bio.h>
#include <linux/blk-filter.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

static DEFINE_MUTEX(bench_lock);
static u64 median, mean, p99;
static struct dentry *bench_file;

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

static void evaluate(u64 *times, unsigned int count, u64 overhead)
{
	u64 sum = 0;

	for (unsigned int i = 0; i < count; i++)
		sum += times[i];
	sort(times, count, sizeof(*times), compare, NULL);
	median = times[count / 2] - overhead;
	mean = div_u64(sum, count) - overhead;
	p99 = times[count - 1 - count / 100] - overhead;
}

static noinline void bench_loop(unsigned long n)
{
	asm volatile("1: dec %0; jnz 1b" : "+r" (n) : : "cc");
}

/* Without @times it does not take any. */
static int bench_bios(struct block_device *bdev, u64 *times, unsigned int count,
		      bool write)
{
	blk_opf_t opf = REQ_SYNC | (write ? REQ_OP_WRITE : REQ_OP_READ);
	unsigned int len = write ? SZ_4K : SECTOR_SIZE;
	struct page *page = alloc_page(GFP_KERNEL);
	struct bio_vec vec;
	struct bio bio;
	int ret = 0;

	if (!page)
		return -ENOMEM;
	for (unsigned int i = 0; i < count && !ret; i++) {
		u64 start = 0;

		bio_init(&bio, bdev, &vec, 1, opf);
		__bio_add_page(&bio, page, len, 0);
		if (write)
			bio.bi_iter.bi_sector = i % 4096 * 8;
		if (times)
			start = ktime_get_ns();
		ret = submit_bio_wait(&bio);
		if (times)
			times[i] = ktime_get_ns() - start;
		bio_uninit(&bio);
		cond_resched();
	}
	__free_page(page);
	return ret;
}

struct bench_thread {
	struct task_struct *task;
	struct block_device *bdev;
	unsigned int count;
	int ret;
	struct completion done;
};

static int bench_thread(void *data)
{
	struct bench_thread *thread = data;

	thread->ret = bench_bios(thread->bdev, NULL, thread->count, false);
	complete(&thread->done);
	return 0;
}

static int bench_cpus(struct block_device *bdev, unsigned int count,
		      unsigned int cpus)
{
	struct bench_thread *threads;
	unsigned int n;
	int ret = 0;
	u64 start;

	threads = kcalloc(cpus, sizeof(*threads), GFP_KERNEL);
	if (!threads)
		return -ENOMEM;
	for (n = 0; n < cpus; n++) {
		threads[n].bdev = bdev;
		threads[n].count = count;
		init_completion(&threads[n].done);
		threads[n].task = kthread_create_on_cpu(bench_thread, &threads[n], n,
							"bench/%u");
		if (IS_ERR(threads[n].task)) {
			ret = PTR_ERR(threads[n].task);
			break;
		}
	}
	start = ktime_get_ns();
	for (unsigned int i = 0; i < n; i++) {
		if (ret)
			kthread_stop(threads[i].task);
		else
			wake_up_process(threads[i].task);
	}
	for (unsigned int i = 0; i < n && !ret; i++)
		wait_for_completion(&threads[i].done);
	median = div_u64(ktime_get_ns() - start, cpus * count);
	mean = median;
	p99 = median;
	for (unsigned int i = 0; i < n && !ret; i++)
		ret = threads[i].ret;
	kfree(threads);
	return ret;
}

#ifdef CONFIG_BLK_FILTER
static unsigned long stack_top, stack_used;

/* Inlined, this would have the frame of its caller. */
static noinline enum bdev_filter_verdict bench_submit_bio(struct bdev_filter *flt,
							  struct bio *bio)
{
	stack_used = stack_top - (unsigned long)__builtin_frame_address(0);
	return BDEV_FILTER_PASS;
}

static const struct bdev_filter_operations bench_ops = {
	.name		= "blkfilter_bench",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.submit_bio	= bench_submit_bio,
};

static int bench_attach(struct block_device *bdev, u64 *times, unsigned int count,
			bool detach)
{
	for (unsigned int i = 0; i < count; i++) {
		u64 start = ktime_get_ns(), attached;
		struct bdev_filter *flt;

		flt = bdev_filter_attach(bdev, &bench_ops, NULL, NULL);
		attached = ktime_get_ns();
		if (IS_ERR(flt))
			return PTR_ERR(flt);
		bdev_filter_detach(flt);
		times[i] = detach ? ktime_get_ns() - attached : attached - start;
	}
	return 0;
}

static int bench_stack(struct block_device *bdev)
{
	struct bdev_filter *flt;
	int ret;

	flt = bdev_filter_attach(bdev, &bench_ops, NULL, NULL);
	if (IS_ERR(flt))
		return PTR_ERR(flt);
	stack_used = 0;
	stack_top = (unsigned long)__builtin_frame_address(0);
	ret = bench_bios(bdev, NULL, 1, false);
	bdev_filter_detach(flt);
	median = stack_used;
	mean = median;
	p99 = median;
	return ret;
}
#else
static int bench_attach(struct block_device *bdev, u64 *times, unsigned int count,
			bool detach)
{
	return -EOPNOTSUPP;
}

static int bench_stack(struct block_device *bdev)
{
	return -EOPNOTSUPP;
}
#endif

static int bench_device(const char *path, u64 *times, unsigned int count,
			const char *how, u64 overhead)
{
	bool write = !strcmp(how, "write");
	struct block_device *bdev;
	struct file *bdev_file;
	unsigned int cpus;
	int ret;

	bdev_file = bdev_file_open_by_path(path, BLK_OPEN_READ |
					   (write ? BLK_OPEN_WRITE : 0), NULL, NULL);
	if (IS_ERR(bdev_file))
		return PTR_ERR(bdev_file);
	bdev = file_bdev(bdev_file);
	if (sscanf(how, "cpus=%u", &cpus) == 1) {
		ret = -EINVAL;
		if (cpus && cpus <= num_online_cpus())
			ret = bench_cpus(bdev, count, cpus);
	} else if (!strcmp(how, "stack")) {
		ret = bench_stack(bdev);
	} else if (!strcmp(how, "attach") || !strcmp(how, "detach")) {
		ret = bench_attach(bdev, times, count, *how == 'd');
		if (!ret)
			evaluate(times, count, overhead);
	} else if (!*how || write) {
		ret = bench_bios(bdev, times, count, write);
		if (!ret)
			evaluate(times, count, overhead);
	} else {
		ret = -EINVAL;
	}
	bdev_fput(bdev_file);
	return ret;
}

static int bench(const char *what, unsigned int count, const char *how)
{
	u64 *times, overhead;
	int ret = 0;

	times = vmalloc_array(count, sizeof(*times));
	if (!times)
		return -ENOMEM;

	for (unsigned int i = 0; i < count; i++) {
		u64 start = ktime_get_ns();

		times[i] = ktime_get_ns() - start;
	}
	evaluate(times, count, 0);
	overhead = median;

	if (!strcmp(what, "loop")) {
		for (unsigned int i = 0; i < count; i++) {
			u64 start = ktime_get_ns();

			bench_loop(count);
			times[i] = ktime_get_ns() - start;
		}
		evaluate(times, count, overhead);
	} else if (!strcmp(what, "rcu")) {
		for (unsigned int i = 0; i < count; i++) {
			u64 start = ktime_get_ns();

			synchronize_rcu();
			times[i] = ktime_get_ns() - start;
		}
		evaluate(times, count, overhead);
	} else {
		ret = bench_device(what, times, count, how, overhead);
	}
	vfree(times);
	return ret;
}

static ssize_t bench_write(struct file *file, const char __user *buf,
			   size_t count, loff_t *ppos)
{
	char text[80] = "", what[64], how[8] = "";
	unsigned int n;
	int ret;

	if (count >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	if (sscanf(text, "%63s %u %7s", what, &n, how) < 2 || !n || n > 10000000)
		return -EINVAL;
	mutex_lock(&bench_lock);
	ret = bench(what, n, how);
	mutex_unlock(&bench_lock);
	return ret ?: count;
}

static ssize_t bench_read(struct file *file, char __user *buf, size_t count,
			  loff_t *ppos)
{
	char text[72];
	int len = scnprintf(text, sizeof(text), "%llu %llu %llu\n", median, mean,
			    p99);

	return simple_read_from_buffer(buf, count, ppos, text, len);
}

static const struct file_operations bench_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= bench_read,
	.write	= bench_write,
};

static int __init blkfilter_bench_init(void)
{
	bench_file = debugfs_create_file("blkfilter_bench", 0600, NULL, NULL,
					 &bench_fops);
	return 0;
}

static void __exit blkfilter_bench_exit(void)
{
	debugfs_remove(bench_file);
}

module_init(blkfilter_bench_init);
module_exit(blkfilter_bench_exit);
MODULE_DESCRIPTION("What a bio costs");
MODULE_LICENSE("GPL");
