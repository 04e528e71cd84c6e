// SPDX-License-Identifier: GPL-2.0
/*
 * What a bio costs, for the selftests of block device filters.
 *
 * Writing "<device> <count>" to /sys/kernel/debug/blkfilter_bench reads the first
 * sector of the device count times, one bio after the other, and takes the time
 * of each.  With "write" after it 4 KiB are written instead, each time to another
 * place in the first 16 MiB.  Writing "loop <count>" takes the time of count loops
 * of count iterations of two instructions each instead, to calibrate; writing "rcu
 * <count>" that of count grace periods.  Reading it returns the median and the mean
 * of the last run, in nanoseconds, with the time that taking the time takes taken
 * off.
 *
 * In an emulator that counts instructions a nanosecond is an instruction.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/debugfs.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

static DEFINE_MUTEX(bench_lock);
static u64 median, mean;
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
}

static noinline void bench_loop(unsigned long n)
{
	asm volatile("1: dec %0; jnz 1b" : "+r" (n) : : "cc");
}

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
		u64 start;

		bio_init(&bio, bdev, &vec, 1, opf);
		__bio_add_page(&bio, page, len, 0);
		if (write)
			bio.bi_iter.bi_sector = i % 4096 * 8;
		start = ktime_get_ns();
		ret = submit_bio_wait(&bio);
		times[i] = ktime_get_ns() - start;
		bio_uninit(&bio);
		cond_resched();
	}
	__free_page(page);
	return ret;
}

static int bench(const char *what, unsigned int count, bool write)
{
	struct file *bdev_file;
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
	} else if (!strcmp(what, "rcu")) {
		for (unsigned int i = 0; i < count; i++) {
			u64 start = ktime_get_ns();

			synchronize_rcu();
			times[i] = ktime_get_ns() - start;
		}
	} else {
		bdev_file = bdev_file_open_by_path(what, BLK_OPEN_READ |
						   (write ? BLK_OPEN_WRITE : 0),
						   NULL, NULL);
		if (IS_ERR(bdev_file)) {
			ret = PTR_ERR(bdev_file);
			goto out;
		}
		ret = bench_bios(file_bdev(bdev_file), times, count, write);
		bdev_fput(bdev_file);
	}
	if (!ret)
		evaluate(times, count, overhead);
out:
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
	if (sscanf(text, "%63s %u %7s", what, &n, how) < 2 || !n || n > 10000000 ||
	    (*how && strcmp(how, "write")))
		return -EINVAL;
	mutex_lock(&bench_lock);
	ret = bench(what, n, *how);
	mutex_unlock(&bench_lock);
	return ret ?: count;
}

static ssize_t bench_read(struct file *file, char __user *buf, size_t count,
			  loff_t *ppos)
{
	char text[48];
	int len = scnprintf(text, sizeof(text), "%llu %llu\n", median, mean);

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
