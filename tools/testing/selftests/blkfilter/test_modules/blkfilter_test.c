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
 *   doze      like sleep, but for a minute, or until the filter is to leave
 *   copy      takes it and defers it; ->process waits for "copy_ms" milliseconds, then
 *             reads "below_bytes" at "below_sector" below the filter first
 *   save      lets it go on; ->detached waits for "save_ms" milliseconds, then writes
 *             4 KiB of 0x5a to "below_sector", if the flags have BDEV_FILTER_SAVES
 *   hook      hooks its completion and lets it go on
 *   fail      the same, and makes it fail when it completes
 *   hookdefer takes it and defers it; ->process hooks its completion
 *   first     hooks its completion; the first that is no read, and of 64 KiB or more
 *             or for a zone, is kept as in hold
 *   serial    lets one go on at a time; when that completes, the next is resubmitted
 *   retarget  sends it to the same sector of the target
 *   retargetdefer  the same from ->process
 *   far       as retarget, but to a sector that no device has
 *   fardefer  the same from ->process
 *   remap     sends it "shift" sectors further on
 *   remapdefer  the same from ->process
 *   detach    detaches the filter that "kattach" attached, and lets it go on
 *   detachdefer  the same from ->process
 *   detachend    the same when it completes
 *   slow      delays it for 200 ms inside ->submit_bio, then lets it go on
 *   nowait    ends it with BLK_STS_AGAIN if it is REQ_NOWAIT, defers it if not
 *
 * "seen", "held", "protected", "hooked", "processed", "passed_on", "attached",
 * "detached", "removed" and "released" count; "size" and "options" are the last ones
 * heard of.  "passed_on" are bios that serial resubmitted when another completed;
 * "nowait" and "polled" count the bios seen with REQ_NOWAIT and REQ_POLLED.
 * "late" counts calls of ->submit_bio that end after ->detached or ->release
 * began, and must stay 0.  "sector" is that of the last bio seen.
 *
 * Writing the path of a device to "kopen" opens it, an empty line closes it.  Any
 * write to "kattach" attaches a filter to it from inside the kernel, any write to
 * "kdetach" detaches that.  Writing to "twice" reads its first sector, waits for so
 * many milliseconds, and submits the same bio again.  "misuse" does what a filter must
 * not.
 *
 * What copy and save do below the filter is told by "below_error", an errno or 0, and
 * "below", the number in the first bytes that were read.  "below_offset" is where in
 * a page these are.
 *
 * What hold keeps is let go by "release" only, or when the filter is told to let go,
 * if "let_go" is 1.
 *
 * "profile" gives the disk "blkfilter_crypto" an encryption profile (1) or takes it
 * away (0); writing to "encrypted" writes an encrypted bio to that disk.
 *
 * Attaching takes a second with the option "slow", fails with "bad", and loads the
 * module of the filter "rust_blkfilter" with "load".  With "target" the device that
 * "kopen" has open becomes the target, for reading only with "rotarget"; attaching
 * fails as that does.
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
#include <linux/sizes.h>
#include <linux/timer.h>

enum mode {
	MODE_PASS, MODE_HOLD, MODE_RESUBMIT, MODE_INLINE, MODE_TIMER, MODE_END,
	MODE_DEFER, MODE_SLEEP, MODE_DOZE, MODE_REFUSE, MODE_COPY, MODE_SAVE,
	MODE_SLOW, MODE_NOWAIT, MODE_HOOK, MODE_FAIL, MODE_HOOKDEFER, MODE_FIRST,
	MODE_SERIAL, MODE_RETARGET, MODE_RETARGETDEFER, MODE_FAR, MODE_FARDEFER,
	MODE_REMAP, MODE_REMAPDEFER, MODE_DETACH, MODE_DETACHDEFER, MODE_DETACHEND,
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
	[MODE_DOZE]	= "doze",
	[MODE_REFUSE]	= "refuse",
	[MODE_COPY]	= "copy",
	[MODE_SAVE]	= "save",
	[MODE_SLOW]	= "slow",
	[MODE_NOWAIT]	= "nowait",
	[MODE_HOOK]	= "hook",
	[MODE_FAIL]	= "fail",
	[MODE_HOOKDEFER] = "hookdefer",
	[MODE_FIRST]	= "first",
	[MODE_SERIAL]	= "serial",
	[MODE_RETARGET]	= "retarget",
	[MODE_RETARGETDEFER] = "retargetdefer",
	[MODE_FAR]	= "far",
	[MODE_FARDEFER]	= "fardefer",
	[MODE_REMAP]	= "remap",
	[MODE_REMAPDEFER] = "remapdefer",
	[MODE_DETACH]	= "detach",
	[MODE_DETACHDEFER] = "detachdefer",
	[MODE_DETACHEND] = "detachend",
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
static atomic_t nowait, polled, late, protected, hooked, passed_on;
static u32 hook_bytes, hook_first;
static u32 below_value, below_error, below_bytes = SECTOR_SIZE, below_offset;
static u32 copy_ms, save_ms;
static u64 below_sector, shift;
static bool let_go;
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
	struct bdev_filter_target *target;
	atomic_t inside;
	bool busy;	/* serial: one is on its way */
	bool kept;	/* first: there was one */
	bool gone;
};

/* All filters, the newest first. */
static DEFINE_MUTEX(filters_lock);
static LIST_HEAD(filters);

static struct test_filter *to_test(struct bdev_filter *flt)
{
	return container_of(flt, struct test_filter, flt);
}

/* Attached from inside the kernel, by "kattach". */
static DEFINE_MUTEX(kernel_lock);
static struct bdev_filter *kernel_filter;

/* Opened by "kopen". */
static DEFINE_MUTEX(kopen_lock);
static struct file *kernel_file;
static char kernel_path[64];

/* What a filter must not do. */
static void detach_self(struct bdev_filter *flt)
{
	if (cmpxchg(&kernel_filter, flt, NULL) == flt)
		bdev_filter_detach(flt);
}

static void test_end_io(struct bdev_filter *flt, struct bio *bio,
			struct bdev_filter_hook *hook)
{
	enum mode m = hook->data[0];
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
	if (m == MODE_DETACHEND)
		detach_self(flt);
	atomic_inc(&hooked);
}

static bool hook_bio(struct bdev_filter *flt, struct bio *bio, enum mode m)
{
	struct bdev_filter_hook *hook;

	if (m == MODE_HOOKDEFER)
		hook = bdev_filter_arm_wait(flt, bio, test_end_io);
	else
		hook = bdev_filter_arm(flt, bio, test_end_io);
	if (!hook)
		return false;
	hook->data[0] = m;
	return true;
}

static void finish_all(struct test_filter *tf)
{
	enum mode m = READ_ONCE(mode);
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
		if (m == MODE_END) {
			bdev_filter_endio(&tf->flt, bio, BLK_STS_IOERR);
			continue;
		}
		if (m == MODE_FIRST)
			hook_bio(&tf->flt, bio, m);
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

static int make_target(struct test_filter *tf, bool write)
{
	blk_mode_t open_mode = BLK_OPEN_READ | (write ? BLK_OPEN_WRITE : 0);
	struct bdev_filter_target *target;
	struct file *bdev_file;
	char path[64];

	mutex_lock(&kopen_lock);
	strscpy(path, kernel_file ? kernel_path : "");
	mutex_unlock(&kopen_lock);
	if (!*path)
		return -EBADF;
	bdev_file = bdev_file_open_by_path(path, open_mode, NULL, NULL);
	if (IS_ERR(bdev_file))
		return PTR_ERR(bdev_file);
	/* It takes over the file. */
	target = bdev_filter_make_target(&tf->flt, bdev_file, NULL);
	if (IS_ERR(target)) {
		bdev_fput(bdev_file);
		return PTR_ERR(target);
	}
	tf->target = target;
	return 0;
}

static int test_attach(struct bdev_filter *flt, void *data, const char *options)
{
	struct test_filter *tf = to_test(flt);
	int ret;

	if (data != &filters)
		return -ENOTRECOVERABLE;
	if (!strcmp(options, "bad"))
		return -EDOM;
	strscpy(last_options, options);
	if (!strcmp(options, "slow"))
		msleep(1000);
	if (!strcmp(options, "load"))
		request_module("blkfilter-rust_blkfilter");
	if (!strcmp(options, "target") || !strcmp(options, "rotarget")) {
		ret = make_target(tf, *options == 't');
		if (ret)
			return ret;
	}
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

/* Sends it where the mode says, or nowhere: then it goes on. */
static bool move_bio(struct test_filter *tf, struct bio *bio, enum mode m)
{
	sector_t sector = bdev_filter_sector(&tf->flt, bio);

	switch (m) {
	case MODE_REMAP:
	case MODE_REMAPDEFER:
		return bdev_filter_remap(&tf->flt, bio, sector + shift);
	case MODE_FAR:
	case MODE_FARDEFER:
		sector = 1ULL << 40;
		break;
	default:
		break;
	}
	if (!tf->target)
		return true;
	if (m == MODE_RETARGETDEFER || m == MODE_FARDEFER)
		return bdev_filter_retarget_wait(&tf->flt, bio, tf->target,
						 sector);
	return bdev_filter_retarget(&tf->flt, bio, tf->target, sector);
}

static void serial_end_io(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_hook *hook)
{
	struct test_filter *tf = to_test(flt);
	unsigned long irq;
	struct bio *next;

	spin_lock_irqsave(&tf->lock, irq);
	next = bio_list_pop(&tf->bios);
	tf->busy = next;
	spin_unlock_irqrestore(&tf->lock, irq);
	if (!next)
		return;
	atomic_dec(&held);
	atomic_inc(&passed_on);
	/* Without memory ->process waits for some. */
	if (bdev_filter_arm(flt, next, serial_end_io))
		bdev_filter_resubmit(flt, next);
	else
		bdev_filter_defer(flt, next);
}

static enum bdev_filter_verdict serial_bio(struct test_filter *tf,
					   struct bio *bio)
{
	enum bdev_filter_verdict verdict = BDEV_FILTER_PASS;
	unsigned long irq;

	spin_lock_irqsave(&tf->lock, irq);
	if (!tf->busy) {
		tf->busy = bdev_filter_arm(&tf->flt, bio, serial_end_io);
	} else if (bdev_filter_take(&tf->flt, bio)) {
		atomic_inc(&held);
		bio_list_add(&tf->bios, bio);
		verdict = BDEV_FILTER_TAKEN;
	}
	spin_unlock_irqrestore(&tf->lock, irq);
	return verdict;
}

/* True if it is the one that is kept. */
static bool is_first(struct test_filter *tf, struct bio *bio)
{
	return op_is_write(bio->bi_opf) &&
		(bio->bi_iter.bi_size >= SZ_64K ||
		 op_is_zone_mgmt(bio_op(bio))) &&
		!xchg(&tf->kept, true);
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
	case MODE_SAVE:
		return BDEV_FILTER_PASS;
	case MODE_FIRST:
		if (is_first(tf, bio))
			break;
		fallthrough;
	case MODE_HOOK:
	case MODE_FAIL:
	case MODE_DETACHEND:
		if (!hook_bio(flt, bio, m))
			atomic_inc(&protected);
		return BDEV_FILTER_PASS;
	case MODE_SERIAL:
		return serial_bio(tf, bio);
	case MODE_RETARGET:
	case MODE_FAR:
		if (!tf->target)
			return BDEV_FILTER_PASS;
		return move_bio(tf, bio, m) ? BDEV_FILTER_RETARGET :
			bdev_filter_end(bio, BLK_STS_IOERR);
	case MODE_REMAP:
		return move_bio(tf, bio, m) ? BDEV_FILTER_PASS :
			bdev_filter_end(bio, BLK_STS_IOERR);
	case MODE_DETACH:
		detach_self(flt);
		return BDEV_FILTER_PASS;
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
	case MODE_DOZE:
	case MODE_REFUSE:
	case MODE_COPY:
	case MODE_NOWAIT:
	case MODE_HOOKDEFER:
	case MODE_RETARGETDEFER:
	case MODE_FARDEFER:
	case MODE_REMAPDEFER:
	case MODE_DETACHDEFER:
		bdev_filter_defer(flt, bio);
		break;
	default:
		atomic_inc(&held);
		spin_lock_irqsave(&tf->lock, irq);
		bio_list_add(&tf->bios, bio);
		spin_unlock_irqrestore(&tf->lock, irq);
		if (m == MODE_TIMER)
			mod_timer(&tf->timer, jiffies + 1);
		else if (m != MODE_HOLD && m != MODE_FIRST)
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

/*
 * Reads from below the filter, or writes 4 KiB of 0x5a there.  @owned: as for
 * bdev_filter_submit_wait().
 */
static int do_below(struct bdev_filter *flt, struct bio *owned, bool write)
{
	struct page *page = alloc_page(GFP_NOIO);
	struct bio_vec vec;
	struct bio bio;
	int ret;

	if (!page)
		return -ENOMEM;
	memset(page_address(page), 0x5a, PAGE_SIZE);
	bio_init(&bio, NULL, &vec, 1, write ? REQ_OP_WRITE : REQ_OP_READ);
	if (write)
		__bio_add_page(&bio, page, SZ_4K, 0);
	else if (below_bytes)
		__bio_add_page(&bio, page, min(below_bytes, SZ_2K),
			       min(below_offset, SZ_2K));
	bio.bi_iter.bi_sector = below_sector;
	ret = bdev_filter_submit_wait(flt, owned, &bio);
	if (!ret && !write)
		WRITE_ONCE(below_value, *(u32 *)page_address(page));
	WRITE_ONCE(below_error, -ret);
	bio_uninit(&bio);
	__free_page(page);
	return ret;
}

static void test_process(struct bdev_filter *flt, struct bio *bio)
{
	enum mode m = READ_ONCE(mode);
	bool fine = true;

	atomic_inc(&processed);
	switch (m) {
	case MODE_REFUSE:
		fine = false;
		break;
	case MODE_SLEEP:
		msleep(20);
		break;
	case MODE_DOZE:
		bdev_filter_sleep(flt, 60 * HZ);
		break;
	case MODE_COPY:
		msleep(copy_ms);
		fine = !do_below(flt, bio, false);
		break;
	case MODE_RETARGETDEFER:
	case MODE_FARDEFER:
	case MODE_REMAPDEFER:
		fine = move_bio(to_test(flt), bio, m);
		break;
	case MODE_HOOKDEFER:
		WARN_ON(!hook_bio(flt, bio, m));
		break;
	case MODE_SERIAL:
		WARN_ON(!bdev_filter_arm_wait(flt, bio, serial_end_io));
		break;
	case MODE_DETACHDEFER:
		detach_self(flt);
		break;
	default:
		break;
	}
	if (fine)
		bdev_filter_resubmit(flt, bio);
	else
		bdev_filter_endio(flt, bio, BLK_STS_IOERR);
}

static void test_let_go(struct bdev_filter *flt)
{
	/* A bio that was deferred is not armed any more, so that may be the end of it. */
	if (let_go || READ_ONCE(mode) == MODE_SERIAL)
		finish_all(to_test(flt));
}

static void test_resized(struct bdev_filter *flt, sector_t nr_sectors)
{
	WRITE_ONCE(last_size, nr_sectors);
}

static void test_detached(struct bdev_filter *flt,
			  enum bdev_filter_reason reason)
{
	WRITE_ONCE(to_test(flt)->gone, true);
	if (READ_ONCE(mode) == MODE_SAVE) {
		msleep(save_ms);
		if (flt->ops->flags & BDEV_FILTER_SAVES)
			do_below(flt, NULL, true);
	}
	atomic_inc(reason == BDEV_FILTER_REMOVED ? &removed : &detached);
}

static void test_release(struct bdev_filter *flt)
{
	struct test_filter *tf = to_test(flt);

	if (atomic_read(&tf->inside))
		atomic_inc(&late);
	if (tf->target)
		bdev_filter_put_target(tf->target);
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
	.flags		= BDEV_FILTER_OPTIONS | BDEV_FILTER_TAKES |
			  BDEV_FILTER_ARMS,
	.attach		= test_attach,
	.submit_bio	= test_submit_bio,
	.process	= test_process,
	.resized	= test_resized,
	.let_go		= test_let_go,
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

static void kclose(void)
{
	mutex_lock(&kopen_lock);
	if (kernel_file)
		bdev_fput(kernel_file);
	kernel_file = NULL;
	mutex_unlock(&kopen_lock);
}

static ssize_t kopen_write(struct file *file, const char __user *buf,
			   size_t count, loff_t *ppos)
{
	struct file *bdev_file = NULL;
	char path[sizeof(kernel_path)];
	int ret = copy_word(path, sizeof(path), buf, count);

	if (ret)
		return ret;
	if (*path)
		bdev_file = bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(bdev_file))
		return PTR_ERR(bdev_file);
	kclose();
	mutex_lock(&kopen_lock);
	kernel_file = bdev_file;
	strscpy(kernel_path, path);
	mutex_unlock(&kopen_lock);
	return count;
}

static const struct file_operations kopen_fops = {
	.owner	= THIS_MODULE,
	.open	= simple_open,
	.write	= kopen_write,
};

/* For ->attach() to be able to ask what is open. */
static struct file *get_kernel_file(void)
{
	struct file *bdev_file;

	mutex_lock(&kopen_lock);
	bdev_file = kernel_file ? get_file(kernel_file) : NULL;
	mutex_unlock(&kopen_lock);
	return bdev_file;
}

/* Submits one and the same bio a second time, so many milliseconds after the first. */
static int twice_set(void *data, u64 pause)
{
	struct file *bdev_file = get_kernel_file();
	struct page *page;
	struct bio_vec vec;
	int ret = -EBADF;
	struct bio bio;

	if (!bdev_file)
		goto out;
	ret = -ENOMEM;
	page = alloc_page(GFP_KERNEL);
	if (!page)
		goto out;
	bio_init(&bio, file_bdev(bdev_file), &vec, 1, REQ_OP_READ);
	__bio_add_page(&bio, page, SECTOR_SIZE, 0);
	ret = submit_bio_wait(&bio);
	msleep(pause);
	bio.bi_iter = (struct bvec_iter) { .bi_size = SECTOR_SIZE };
	/* It was taken out of its cgroup. */
	bio_set_dev(&bio, file_bdev(bdev_file));
	if (!ret)
		ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	__free_page(page);
out:
	if (bdev_file)
		fput(bdev_file);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(twice_fops, NULL, twice_set, "%llu\n");

static int kattach_set(void *data, u64 val)
{
	struct file *bdev_file = get_kernel_file();
	struct bdev_filter *flt = ERR_PTR(-EBADF);

	mutex_lock(&kernel_lock);
	if (bdev_file && !kernel_filter)
		flt = bdev_filter_attach(file_bdev(bdev_file), &test_ops,
					 &filters, NULL);
	if (!IS_ERR(flt))
		WRITE_ONCE(kernel_filter, flt);
	mutex_unlock(&kernel_lock);
	if (bdev_file)
		fput(bdev_file);
	return PTR_ERR_OR_ZERO(flt);
}
DEFINE_DEBUGFS_ATTRIBUTE(kattach_fops, NULL, kattach_set, "%llu\n");

static int kdetach_set(void *data, u64 val)
{
	struct bdev_filter *flt;

	mutex_lock(&kernel_lock);
	/* It may have detached itself, see detach_self(). */
	flt = xchg(&kernel_filter, NULL);
	if (flt)
		bdev_filter_detach(flt);
	mutex_unlock(&kernel_lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(kdetach_fops, NULL, kdetach_set, "%llu\n");

/* What a filter must not do; each gives one warning and nothing else. */
static ssize_t misuse_write(struct file *file, const char __user *buf,
			    size_t count, loff_t *ppos)
{
	static struct bdev_filter never;
	char word[16];
	int ret = copy_word(word, sizeof(word), buf, count);

	if (ret)
		return ret;
	if (!strcmp(word, "never")) {
		bdev_filter_detach(&never);
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
	debugfs_create_bool("let_go", 0600, debugfs_dir, &let_go);
	debugfs_create_u32("below", 0400, debugfs_dir, &below_value);
	debugfs_create_u32("below_error", 0600, debugfs_dir, &below_error);
	debugfs_create_u64("below_sector", 0600, debugfs_dir, &below_sector);
	debugfs_create_u32("below_bytes", 0600, debugfs_dir, &below_bytes);
	debugfs_create_u32("below_offset", 0600, debugfs_dir, &below_offset);
	debugfs_create_u32("copy_ms", 0600, debugfs_dir, &copy_ms);
	debugfs_create_u32("save_ms", 0600, debugfs_dir, &save_ms);
	debugfs_create_u64("shift", 0600, debugfs_dir, &shift);
	debugfs_create_file_unsafe("twice", 0200, debugfs_dir, NULL, &twice_fops);
	debugfs_create_file("kopen", 0200, debugfs_dir, NULL, &kopen_fops);
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
	debugfs_create_atomic_t("passed_on", 0600, debugfs_dir, &passed_on);
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
	kclose();
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
