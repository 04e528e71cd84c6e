// SPDX-License-Identifier: GPL-2.0
/*
 * A block device filter for the selftests.
 *
 * Does with each bio what /sys/kernel/debug/blkfilter_test/mode says:
 *
 *   pass      lets it go on
 *   hold      takes it and keeps it until 1 is written to "release"
 *   resubmit  takes it and resubmits it from a work item
 *   inline    takes it and resubmits it inside of ->submit_bio
 *   timer     takes it and resubmits it from a timer
 *   end       takes it and ends it with an I/O error from a work item
 *   defer     takes it and defers it; ->process resubmits it
 *   sleep     like defer, but ->process sleeps for 20 ms first
 *   refuse    takes it and defers it; ->process ends it with an I/O error
 *   copy      takes it and defers it; ->process reads sector 0 below the filter
 *             first and waits for that
 *   hook      hooks its completion and lets it go on
 *   fail      the same, and makes it fail when it completes
 *   hookdefer takes it and defers it; ->process hooks its completion
 *   retarget  sends it to the same sector of the device that "kopen" has open, or
 *             if it goes there, of the one that "kopen2" has
 *   retargetdefer  the same from ->process
 *   far       as retarget, but to a sector that no device has
 *   fardefer  the same from ->process
 *   slow      delays it for 200 ms inside ->submit_bio, then lets it go on
 *   nowait    ends it with BLK_STS_AGAIN if it is REQ_NOWAIT, defers it if not
 *
 * "seen", "held", "protected", "hooked", "processed", "attached", "detached",
 * "removed" and "released" count; "size" and "options" are the last ones heard
 * of.  "nowait" and "polled" count the bios seen with REQ_NOWAIT and REQ_POLLED.
 * "late" counts calls of ->submit_bio that end after ->detached or ->release
 * began, and must stay 0.  "sector" is that of the last bio seen.
 *
 * Writing the path of a device to "kopen" opens it, an empty line closes it.  Any
 * write to "kattach" attaches a filter to it from inside the kernel, any write to
 * "kdetach" detaches that.  Writing to "twice" reads its first sector, waits for so
 * many milliseconds, and submits the same bio again.  Writing a sector to "below"
 * reads it below the filter that was attached last; "misuse" does what a filter
 * must not.
 *
 * "profile" gives the disk "blkfilter_crypto" an encryption profile (1) or takes it
 * away (0); writing to "encrypted" writes an encrypted bio to that disk.
 *
 * Attaching takes a second with the option "slow", fails with "bad", and loads the
 * module of the filter "rust_blkfilter" with "load".
 *
 * The module parameter "flags" is added to the flags of the filter.  With "fail_init"
 * the init function fails a second after it has registered the filter, and attached
 * it to the device "attach_to" if there is one; with "forget" the exit function leaves
 * it registered.
 */
#include <linux/bio.h>
#include <linux/blk-crypto-profile.h>
#include <linux/blk-filter.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/kmemleak.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/timer.h>

enum mode {
	MODE_PASS, MODE_HOLD, MODE_RESUBMIT, MODE_INLINE, MODE_TIMER, MODE_END,
	MODE_DEFER, MODE_SLEEP, MODE_REFUSE, MODE_COPY, MODE_SLOW, MODE_NOWAIT,
	MODE_HOOK, MODE_FAIL, MODE_HOOKDEFER, MODE_RETARGET, MODE_RETARGETDEFER,
	MODE_FAR, MODE_FARDEFER,
};

static const char * const mode_names[] = {
	[MODE_PASS]	= "pass",
	[MODE_HOLD]	= "hold",
	[MODE_RESUBMIT]	= "resubmit",
	[MODE_INLINE]	= "inline",
	[MODE_TIMER]	= "timer",
	[MODE_END]	= "end",
	[MODE_DEFER]	= "defer",
	[MODE_SLEEP]	= "sleep",
	[MODE_REFUSE]	= "refuse",
	[MODE_COPY]	= "copy",
	[MODE_SLOW]	= "slow",
	[MODE_NOWAIT]	= "nowait",
	[MODE_HOOK]	= "hook",
	[MODE_FAIL]	= "fail",
	[MODE_HOOKDEFER] = "hookdefer",
	[MODE_RETARGET]	= "retarget",
	[MODE_RETARGETDEFER] = "retargetdefer",
	[MODE_FAR]	= "far",
	[MODE_FARDEFER]	= "fardefer",
};

static unsigned int flags;
module_param(flags, uint, 0444);
MODULE_PARM_DESC(flags, "more flags of the filter, see enum bdev_filter_flags");

static bool fail_init;
module_param(fail_init, bool, 0444);
MODULE_PARM_DESC(fail_init, "register, wait for a second, and fail");

static char *attach_to;
module_param(attach_to, charp, 0444);
MODULE_PARM_DESC(attach_to, "device that fail_init attaches to and does not detach");

static bool forget;
module_param(forget, bool, 0444);
MODULE_PARM_DESC(forget, "leave the filter registered when the module goes");

static enum mode mode;
static atomic_t seen, held, processed, attached, detached, removed, released;
static atomic_t nowait, polled, late, protected, hooked;
static u32 hook_bytes, hook_first;
static u64 last_size, last_sector;
static char last_options[64];
static struct dentry *debugfs_dir;

struct test_filter {
	struct bdev_filter flt;	/* first */
	spinlock_t lock;
	struct bio_list bios;
	struct work_struct work;
	struct timer_list timer;
	struct list_head entry;
	atomic_t inside;
	bool gone;
};

/* All filters, the newest first. */
static DEFINE_MUTEX(filters_lock);
static LIST_HEAD(filters);

static struct test_filter *to_test(struct bdev_filter *flt)
{
	return container_of(flt, struct test_filter, flt);
}

static void finish_all(struct test_filter *tf)
{
	struct bio_list bios;
	unsigned long irq;
	struct bio *bio;

	spin_lock_irqsave(&tf->lock, irq);
	bios = tf->bios;
	bio_list_init(&tf->bios);
	spin_unlock_irqrestore(&tf->lock, irq);

	while ((bio = bio_list_pop(&bios))) {
		atomic_dec(&held);
		/*
		 * The last one lets the release begin, which then waits for
		 * this work item or timer.
		 */
		if (READ_ONCE(mode) == MODE_END)
			bdev_filter_endio(&tf->flt, bio, BLK_STS_IOERR);
		else
			bdev_filter_resubmit(&tf->flt, bio);
	}
}

static void finish_work(struct work_struct *work)
{
	finish_all(container_of(work, struct test_filter, work));
}

static void finish_timer(struct timer_list *timer)
{
	struct test_filter *tf = timer_container_of(tf, timer, timer);

	finish_all(tf);
}

static int test_attach(struct bdev_filter *flt, void *data, const char *options)
{
	struct test_filter *tf = to_test(flt);

	if (data != &filters)
		return -ENOTRECOVERABLE;
	if (!strcmp(options, "bad"))
		return -EDOM;
	strscpy(last_options, options);
	if (!strcmp(options, "slow"))
		msleep(1000);
	if (!strcmp(options, "load"))
		request_module("blkfilter-rust_blkfilter");
	spin_lock_init(&tf->lock);
	bio_list_init(&tf->bios);
	INIT_WORK(&tf->work, finish_work);
	timer_setup(&tf->timer, finish_timer, 0);
	mutex_lock(&filters_lock);
	list_add(&tf->entry, &filters);
	mutex_unlock(&filters_lock);
	atomic_inc(&attached);
	return 0;
}

static void test_end_io(struct bdev_filter *flt, struct bio *bio,
			struct bdev_filter_hook *hook)
{
	enum mode m = (enum mode)(uintptr_t)hook->data[0];
	struct bvec_iter iter = hook->iter;
	u32 bytes = 0, first = 0;
	struct bio_vec bv;

	if (!bio->bi_status && bio_op(bio) == REQ_OP_READ)
		__bio_for_each_segment(bv, bio, iter, iter) {
			if (!bytes)
				memcpy_from_bvec((char *)&first, &(struct bio_vec) {
					.bv_page = bv.bv_page, .bv_len = 4,
					.bv_offset = bv.bv_offset });
			bytes += bv.bv_len;
		}
	if (bytes) {
		WRITE_ONCE(hook_bytes, bytes);
		WRITE_ONCE(hook_first, first);
	}
	if (m == MODE_FAIL)
		bio->bi_status = BLK_STS_IOERR;
	atomic_inc(&hooked);
}

static bool hook_bio(struct bdev_filter *flt, struct bio *bio, enum mode m)
{
	struct bdev_filter_hook *hook = bdev_filter_arm(flt, bio, test_end_io);

	if (!hook)
		return false;
	hook->data[0] = (void *)(uintptr_t)m;
	return true;
}

/* Opened by "kopen" and "kopen2". */
static struct file *kernel_files[2];

static bool retarget(struct bdev_filter *flt, struct bio *bio, enum mode m)
{
	struct block_device *to = file_bdev(kernel_files[0]);

	if (m == MODE_FAR || m == MODE_FARDEFER)
		return bdev_filter_retarget(flt, bio, to, 1ULL << 40);
	if (bio->bi_bdev == to && kernel_files[1])
		to = file_bdev(kernel_files[1]);
	return bdev_filter_retarget(flt, bio, to, bdev_filter_sector(flt, bio));
}

static enum bdev_filter_verdict filter_bio(struct bdev_filter *flt,
					   struct bio *bio)
{
	struct test_filter *tf = to_test(flt);
	enum mode m = READ_ONCE(mode);
	unsigned long irq;

	switch (m) {
	case MODE_PASS:
		return BDEV_FILTER_PASS;
	case MODE_SLOW:
		mdelay(200);
		return BDEV_FILTER_PASS;
	case MODE_NOWAIT:
		if (bio->bi_opf & REQ_NOWAIT)
			return bdev_filter_end(bio, BLK_STS_AGAIN);
		break;
	case MODE_HOOK:
	case MODE_FAIL:
		if (!hook_bio(flt, bio, m))
			atomic_inc(&protected);
		return BDEV_FILTER_PASS;
	case MODE_RETARGET:
	case MODE_FAR:
		if (!kernel_files[0])
			return BDEV_FILTER_PASS;
		return retarget(flt, bio, m) ? BDEV_FILTER_RETARGET :
			bdev_filter_end(bio, BLK_STS_RESOURCE);
	default:
		break;
	}

	if (!bdev_filter_take(flt, bio)) {
		atomic_inc(&protected);
		return BDEV_FILTER_PASS;
	}

	switch (m) {
	case MODE_INLINE:
		bdev_filter_resubmit(flt, bio);
		break;
	case MODE_DEFER:
	case MODE_SLEEP:
	case MODE_REFUSE:
	case MODE_COPY:
	case MODE_NOWAIT:
	case MODE_HOOKDEFER:
	case MODE_RETARGETDEFER:
	case MODE_FARDEFER:
		bdev_filter_defer(flt, bio);
		break;
	default:
		atomic_inc(&held);
		spin_lock_irqsave(&tf->lock, irq);
		bio_list_add(&tf->bios, bio);
		spin_unlock_irqrestore(&tf->lock, irq);
		if (m == MODE_TIMER)
			mod_timer(&tf->timer, jiffies + 1);
		else if (m != MODE_HOLD)
			schedule_work(&tf->work);
		break;
	}
	return BDEV_FILTER_TAKEN;
}

static enum bdev_filter_verdict test_submit_bio(struct bdev_filter *flt,
						struct bio *bio)
{
	struct test_filter *tf = to_test(flt);
	enum bdev_filter_verdict verdict;

	atomic_inc(&tf->inside);
	atomic_inc(&seen);
	if (bio->bi_opf & REQ_NOWAIT)
		atomic_inc(&nowait);
	if (bio->bi_opf & REQ_POLLED)
		atomic_inc(&polled);
	WRITE_ONCE(last_sector, bdev_filter_sector(flt, bio));
	verdict = filter_bio(flt, bio);
	if (READ_ONCE(tf->gone))
		atomic_inc(&late);
	atomic_dec(&tf->inside);
	return verdict;
}

struct below {
	struct bdev_filter_io io;
	struct bio bio;
	struct bio_vec vec;
	struct completion done;
};

static void below_end(struct bio *bio)
{
	complete(bio->bi_private);
}

/* Reads a sector below the filter; the number in its first bytes. */
static int read_below(struct bdev_filter *flt, sector_t sector, u32 *value)
{
	struct page *page = alloc_page(GFP_NOIO);
	struct below *b = kzalloc(sizeof(*b), GFP_NOIO);
	int ret = -ENOMEM;

	if (!page || !b)
		goto out;
	bio_init(&b->bio, NULL, &b->vec, 1, REQ_OP_READ);
	__bio_add_page(&b->bio, page, SECTOR_SIZE, 0);
	b->bio.bi_iter.bi_sector = sector;
	init_completion(&b->done);
	b->bio.bi_end_io = below_end;
	b->bio.bi_private = &b->done;
	ret = bdev_filter_submit_below(flt, &b->bio, &b->io);
	if (!ret) {
		wait_for_completion(&b->done);
		ret = blk_status_to_errno(b->bio.bi_status);
		*value = *(u32 *)page_address(page);
	}
	bio_uninit(&b->bio);
out:
	kfree(b);
	if (page)
		__free_page(page);
	return ret;
}

static void test_process(struct bdev_filter *flt, struct bio *bio)
{
	enum mode m = READ_ONCE(mode);
	u32 value;

	atomic_inc(&processed);
	switch (m) {
	case MODE_REFUSE:
		bdev_filter_endio(flt, bio, BLK_STS_IOERR);
		return;
	case MODE_SLEEP:
		msleep(20);
		break;
	case MODE_COPY:
		if (read_below(flt, 0, &value)) {
			bdev_filter_endio(flt, bio, BLK_STS_IOERR);
			return;
		}
		break;
	case MODE_RETARGETDEFER:
	case MODE_FARDEFER:
		if (kernel_files[0])
			WARN_ON(!retarget(flt, bio, m));
		break;
	case MODE_HOOKDEFER:
		WARN_ON(!hook_bio(flt, bio, MODE_HOOKDEFER));
		break;
	default:
		break;
	}
	bdev_filter_resubmit(flt, bio);
}

static void test_resized(struct bdev_filter *flt, sector_t nr_sectors)
{
	WRITE_ONCE(last_size, nr_sectors);
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

	if (atomic_read(&tf->inside))
		atomic_inc(&late);
	mutex_lock(&filters_lock);
	list_del(&tf->entry);
	mutex_unlock(&filters_lock);
	timer_shutdown_sync(&tf->timer);
	/* Waiting for work that is not there for when memory is short is fine. */
	schedule_work(&tf->work);
	flush_work(&tf->work);
	WARN_ON(!bio_list_empty(&tf->bios));
	atomic_inc(&released);
}

static struct bdev_filter_operations test_ops = {
	.name		= "blkfilter_test",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct test_filter),
	.flags		= BDEV_FILTER_OPTIONS,
	.attach		= test_attach,
	.submit_bio	= test_submit_bio,
	.process	= test_process,
	.resized	= test_resized,
	.detached	= test_detached,
	.release	= test_release,
};

static ssize_t copy_word(char *word, size_t size, const char __user *buf,
			 size_t count)
{
	if (count >= size)
		return -EINVAL;
	if (copy_from_user(word, buf, count))
		return -EFAULT;
	word[count] = '\0';
	strim(word);
	return 0;
}

static ssize_t mode_read(struct file *file, char __user *buf, size_t count,
			 loff_t *ppos)
{
	const char *name = mode_names[mode];

	return simple_read_from_buffer(buf, count, ppos, name, strlen(name));
}

static ssize_t mode_write(struct file *file, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	char name[16];
	int ret = copy_word(name, sizeof(name), buf, count);

	if (ret)
		return ret;
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

static ssize_t options_read(struct file *file, char __user *buf, size_t count,
			    loff_t *ppos)
{
	return simple_read_from_buffer(buf, count, ppos, last_options,
				       strlen(last_options));
}

static const struct file_operations options_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.read	= options_read,
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

/* The filter that was attached last, with a reference as an owner of a bio has. */
static struct bdev_filter *newest_filter(void)
{
	struct test_filter *tf;
	struct bdev_filter *flt = NULL;

	mutex_lock(&filters_lock);
	tf = list_first_entry_or_null(&filters, struct test_filter, entry);
	if (tf && refcount_inc_not_zero(&tf->flt.refs))
		flt = &tf->flt;
	mutex_unlock(&filters_lock);
	return flt;
}

static u32 below_value;

static int below_set(void *data, u64 sector)
{
	struct bdev_filter *flt = newest_filter();
	int ret;

	if (!flt)
		return -ENOENT;
	ret = read_below(flt, sector, &below_value);
	bdev_filter_put(flt);
	return ret;
}

static int below_get(void *data, u64 *value)
{
	*value = below_value;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(below_fops, below_get, below_set, "%llu\n");

/* Attached from inside the kernel, by "kattach". */
static DEFINE_MUTEX(kernel_lock);
static struct bdev_filter *kernel_filter;

static void kclose(int n)
{
	if (kernel_files[n])
		bdev_fput(kernel_files[n]);
	kernel_files[n] = NULL;
}

static ssize_t kopen_write(struct file *file, const char __user *buf,
			   size_t count, loff_t *ppos)
{
	struct file *bdev_file = NULL;
	long n = (long)file->private_data;
	char path[64];
	int ret = copy_word(path, sizeof(path), buf, count);

	if (ret)
		return ret;
	if (*path)
		bdev_file = bdev_file_open_by_path(path, BLK_OPEN_READ |
						   BLK_OPEN_WRITE, NULL, NULL);
	if (IS_ERR(bdev_file))
		return PTR_ERR(bdev_file);
	mutex_lock(&kernel_lock);
	kclose(n);
	kernel_files[n] = bdev_file;
	mutex_unlock(&kernel_lock);
	return count;
}

/* Submits one and the same bio a second time, so many milliseconds after the first. */
static int twice_set(void *data, u64 pause)
{
	struct page *page;
	struct bio_vec vec;
	int ret = -EBADF;
	struct bio bio;

	mutex_lock(&kernel_lock);
	if (!kernel_files[0])
		goto out;
	ret = -ENOMEM;
	page = alloc_page(GFP_KERNEL);
	if (!page)
		goto out;
	bio_init(&bio, file_bdev(kernel_files[0]), &vec, 1, REQ_OP_READ);
	__bio_add_page(&bio, page, SECTOR_SIZE, 0);
	ret = submit_bio_wait(&bio);
	msleep(pause);
	bio.bi_iter = (struct bvec_iter) { .bi_size = SECTOR_SIZE };
	/* It was taken out of its cgroup. */
	bio_set_dev(&bio, file_bdev(kernel_files[0]));
	if (!ret)
		ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	__free_page(page);
out:
	mutex_unlock(&kernel_lock);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(twice_fops, NULL, twice_set, "%llu\n");

static const struct file_operations kopen_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= kopen_write,
};

static int kattach_set(void *data, u64 val)
{
	struct bdev_filter *flt = ERR_PTR(-EBADF);

	mutex_lock(&kernel_lock);
	if (kernel_files[0] && !kernel_filter)
		flt = bdev_filter_attach(file_bdev(kernel_files[0]), &test_ops,
					 &filters, NULL);
	if (!IS_ERR(flt))
		kernel_filter = flt;
	mutex_unlock(&kernel_lock);
	return PTR_ERR_OR_ZERO(flt);
}
DEFINE_DEBUGFS_ATTRIBUTE(kattach_fops, NULL, kattach_set, "%llu\n");

static int kdetach_set(void *data, u64 val)
{
	mutex_lock(&kernel_lock);
	if (kernel_filter)
		bdev_filter_detach(kernel_filter);
	kernel_filter = NULL;
	mutex_unlock(&kernel_lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(kdetach_fops, NULL, kdetach_set, "%llu\n");

/* What a filter must not do; each gives one warning and nothing else. */
static ssize_t misuse_write(struct file *file, const char __user *buf,
			    size_t count, loff_t *ppos)
{
	static struct bdev_filter never;
	struct bdev_filter *flt;
	char word[16];
	int ret = copy_word(word, sizeof(word), buf, count);

	if (ret)
		return ret;
	if (!strcmp(word, "never")) {
		bdev_filter_detach(&never);
	} else if (!strcmp(word, "put")) {
		flt = newest_filter();
		if (!flt)
			return -ENOENT;
		bdev_filter_put(flt);
		bdev_filter_put(flt);
	} else if (!strcmp(word, "unregister")) {
		static const struct bdev_filter_operations unknown = {
			.name = "unknown",
		};

		bdev_filter_unregister(&unknown);
	} else if (!strcmp(word, "other")) {
		static const struct bdev_filter_operations other = {
			.name = "blkfilter_test",
		};

		bdev_filter_unregister(&other);
	} else {
		return -EINVAL;
	}
	return count;
}

static const struct file_operations misuse_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= misuse_write,
};

/*
 * A disk that offers inline encryption, "blkfilter_crypto".  It swallows writes
 * and returns zeroes.
 */
/* Allocated: it has a lock class key, which must not be static. */
static struct blk_crypto_profile *crypto_profile;
static struct gendisk *crypto_disk;

static void crypto_submit_bio(struct bio *bio)
{
	if (bio_op(bio) == REQ_OP_READ)
		zero_fill_bio(bio);
	bio_endio(bio);
}

static const struct block_device_operations crypto_disk_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= crypto_submit_bio,
};

static int crypto_disk_add(void)
{
	struct queue_limits lim = { };
	int ret;

	crypto_profile = kzalloc_obj(*crypto_profile);
	if (!crypto_profile)
		return -ENOMEM;
	ret = blk_crypto_profile_init(crypto_profile, 0);
	if (ret)
		goto out_free;
	crypto_profile->modes_supported[BLK_ENCRYPTION_MODE_AES_256_XTS] = 4096;
	crypto_profile->max_dun_bytes_supported = 8;
	crypto_profile->key_types_supported = BLK_CRYPTO_KEY_TYPE_RAW;

	crypto_disk = blk_alloc_disk(&lim, NUMA_NO_NODE);
	if (IS_ERR(crypto_disk)) {
		ret = PTR_ERR(crypto_disk);
		goto out_destroy;
	}
	crypto_disk->fops = &crypto_disk_fops;
	strscpy(crypto_disk->disk_name, "blkfilter_crypto");
	set_capacity(crypto_disk, 2048);
	blk_crypto_register(crypto_profile, crypto_disk->queue);
	ret = add_disk(crypto_disk);
	if (!ret)
		return 0;
	put_disk(crypto_disk);
out_destroy:
	blk_crypto_profile_destroy(crypto_profile);
out_free:
	kfree(crypto_profile);
	return ret;
}

static void crypto_disk_remove(void)
{
	del_gendisk(crypto_disk);
	put_disk(crypto_disk);
	blk_crypto_profile_destroy(crypto_profile);
	kfree(crypto_profile);
}

static int profile_set(void *data, u64 val)
{
	WRITE_ONCE(crypto_disk->queue->crypto_profile,
		   val ? crypto_profile : NULL);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(profile_fops, NULL, profile_set, "%llu\n");

static int encrypted_set(void *data, u64 val)
{
	static const u8 raw_key[64] = { 1, 2, 3 };
	u64 dun[BLK_CRYPTO_DUN_ARRAY_SIZE] = { };
	struct block_device *bdev = crypto_disk->part0;
	struct page *page = alloc_page(GFP_KERNEL);
	struct blk_crypto_key key;
	struct bio_vec vec;
	struct bio bio;
	int ret;

	if (!page)
		return -ENOMEM;
	ret = blk_crypto_init_key(&key, raw_key, sizeof(raw_key),
				  BLK_CRYPTO_KEY_TYPE_RAW,
				  BLK_ENCRYPTION_MODE_AES_256_XTS, 8, 4096,
				  BLK_CRYPTO_CFG_ALLOW_HW);
	if (!ret)
		ret = blk_crypto_start_using_key(bdev, &key);
	if (ret)
		goto out;
	bio_init(&bio, bdev, &vec, 1, REQ_OP_WRITE);
	__bio_add_page(&bio, page, 4096, 0);
	bio_crypt_set_ctx(&bio, &key, dun, GFP_KERNEL);
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	blk_crypto_evict_key(bdev, &key);
out:
	__free_page(page);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(encrypted_fops, NULL, encrypted_set, "%llu\n");

static int __init check_registration(void)
{
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
		{ .size = sizeof(struct bdev_filter),
		  .submit_bio = test_submit_bio },
	};
	int ret;

	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		ret = bdev_filter_register(&bad[i], NULL);
		if (ret != -EINVAL) {
			pr_err("bad operations %d were not refused: %d\n", i,
			       ret);
			return -ENOTRECOVERABLE;
		}
	}
	ret = bdev_filter_register(&test_ops, &filters);
	if (ret != -EEXIST) {
		pr_err("a name could be registered twice: %d\n", ret);
		return -ENOTRECOVERABLE;
	}
	return 0;
}

static int __init attach_and_forget(void)
{
	struct file *bdev_file;
	struct bdev_filter *flt;

	bdev_file = bdev_file_open_by_path(attach_to, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(bdev_file))
		return PTR_ERR(bdev_file);
	flt = bdev_filter_attach(file_bdev(bdev_file), &test_ops, &filters, NULL);
	bdev_fput(bdev_file);
	if (IS_ERR(flt))
		return PTR_ERR(flt);
	/* It is, as the reference is. */
	kmemleak_not_leak(flt);
	return 0;
}

static int __init blkfilter_test_init(void)
{
	int ret;

	test_ops.flags |= flags;
	ret = bdev_filter_register(&test_ops, &filters);
	if (ret)
		return ret;
	if (fail_init) {
		msleep(1000);
		ret = attach_to ? attach_and_forget() : 0;
		ret = ret ?: -ENODEV;
		goto out_unregister;
	}
	ret = check_registration();
	if (ret)
		goto out_unregister;
	ret = crypto_disk_add();
	if (ret)
		goto out_unregister;

	debugfs_dir = debugfs_create_dir("blkfilter_test", NULL);
	debugfs_create_file("mode", 0600, debugfs_dir, NULL, &mode_fops);
	debugfs_create_file("options", 0400, debugfs_dir, NULL, &options_fops);
	debugfs_create_file_unsafe("release", 0200, debugfs_dir, NULL,
				   &release_fops);
	debugfs_create_file_unsafe("below", 0600, debugfs_dir, NULL,
				   &below_fops);
	debugfs_create_file_unsafe("twice", 0200, debugfs_dir, NULL, &twice_fops);
	debugfs_create_file("kopen", 0200, debugfs_dir, NULL, &kopen_fops);
	debugfs_create_file("kopen2", 0200, debugfs_dir, (void *)1L,
			    &kopen_fops);
	debugfs_create_file_unsafe("kattach", 0200, debugfs_dir, NULL,
				   &kattach_fops);
	debugfs_create_file_unsafe("kdetach", 0200, debugfs_dir, NULL,
				   &kdetach_fops);
	debugfs_create_file_unsafe("profile", 0200, debugfs_dir, NULL,
				   &profile_fops);
	debugfs_create_file_unsafe("encrypted", 0200, debugfs_dir, NULL,
				   &encrypted_fops);
	debugfs_create_atomic_t("protected", 0600, debugfs_dir, &protected);
	debugfs_create_atomic_t("hooked", 0600, debugfs_dir, &hooked);
	debugfs_create_u32("hook_bytes", 0600, debugfs_dir, &hook_bytes);
	debugfs_create_u32("hook_first", 0600, debugfs_dir, &hook_first);
	debugfs_create_file("misuse", 0200, debugfs_dir, NULL, &misuse_fops);
	debugfs_create_u64("size", 0600, debugfs_dir, &last_size);
	debugfs_create_u64("sector", 0400, debugfs_dir, &last_sector);
	debugfs_create_atomic_t("seen", 0600, debugfs_dir, &seen);
	debugfs_create_atomic_t("nowait", 0600, debugfs_dir, &nowait);
	debugfs_create_atomic_t("polled", 0600, debugfs_dir, &polled);
	debugfs_create_atomic_t("held", 0400, debugfs_dir, &held);
	debugfs_create_atomic_t("processed", 0600, debugfs_dir, &processed);
	debugfs_create_atomic_t("attached", 0600, debugfs_dir, &attached);
	debugfs_create_atomic_t("detached", 0600, debugfs_dir, &detached);
	debugfs_create_atomic_t("removed", 0600, debugfs_dir, &removed);
	debugfs_create_atomic_t("released", 0600, debugfs_dir, &released);
	debugfs_create_atomic_t("late", 0600, debugfs_dir, &late);
	return 0;

out_unregister:
	bdev_filter_unregister(&test_ops);
	return ret;
}

static void __exit blkfilter_test_exit(void)
{
	debugfs_remove(debugfs_dir);
	kclose(0);
	kclose(1);
	crypto_disk_remove();
	if (!forget)
		bdev_filter_unregister(&test_ops);
}

module_init(blkfilter_test_init);
module_exit(blkfilter_test_exit);
MODULE_ALIAS("blkfilter-blkfilter_test");
MODULE_DESCRIPTION("Block device filter for the selftests");
MODULE_AUTHOR("blkfilter developers");
MODULE_LICENSE("GPL");
