// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of block device filters: what needs no disk, then, on a disk of the
 * test's own, what happens to bios and when a filter goes.
 */
#include <kunit/test.h>
#include <linux/blk-filter.h>
#include <linux/delay.h>
#include <linux/sched/task_stack.h>
#include <linux/workqueue.h>
#include "blk-filter.h"

static enum bdev_filter_verdict pass(struct bdev_filter *flt, struct bio *bio)
{
	return BDEV_FILTER_PASS;
}

static struct bdev_filter_operations ops(const char *name)
{
	return (struct bdev_filter_operations) {
		.name		= name,
		.size		= sizeof(struct bdev_filter),
		.submit_bio	= pass,
	};
}

static void test_bad_operations(struct kunit *test)
{
	struct bdev_filter_operations bad[] = {
		ops(NULL), ops(""), ops("none"), ops("two words"), ops("a\tb"),
		ops("a\n"), ops("[a"), ops("a]"), ops("\303\244"),
		ops("x2345678901234567890123456789012"),
		ops("no_submit"), ops("small"),
	};

	bad[ARRAY_SIZE(bad) - 2].submit_bio = NULL;
	bad[ARRAY_SIZE(bad) - 1].size--;
	for (int i = 0; i < ARRAY_SIZE(bad); i++)
		KUNIT_EXPECT_EQ_MSG(test, bdev_filter_register(&bad[i], NULL),
				    -EINVAL, "%d", i);
}

static void test_names_are_unique(struct kunit *test)
{
	/* The longest name there is, and one more. */
	struct bdev_filter_operations a = ops("x234567890123456789012345678901");
	struct bdev_filter_operations b = ops("x234567890123456789012345678901");
	struct bdev_filter_operations c = ops("kunit-other");

	KUNIT_ASSERT_EQ(test, bdev_filter_register(&a, NULL), 0);
	KUNIT_EXPECT_EQ(test, bdev_filter_register(&b, NULL), -EEXIST);
	KUNIT_EXPECT_EQ(test, bdev_filter_register(&c, NULL), 0);
	bdev_filter_unregister(&c);
	bdev_filter_unregister(&a);
	KUNIT_EXPECT_EQ(test, bdev_filter_register(&b, NULL), 0);
	bdev_filter_unregister(&b);
}

static void test_end_keeps_an_error(struct kunit *test)
{
	struct bio bio = { };

	KUNIT_EXPECT_EQ(test, bdev_filter_end(&bio, BLK_STS_OK),
			BDEV_FILTER_END);
	KUNIT_EXPECT_EQ(test, bio.bi_status, BLK_STS_OK);
	bdev_filter_end(&bio, BLK_STS_NOSPC);
	KUNIT_EXPECT_EQ(test, bio.bi_status, BLK_STS_NOSPC);
	/* Part of it failed before: that is not forgotten. */
	bdev_filter_end(&bio, BLK_STS_OK);
	KUNIT_EXPECT_EQ(test, bio.bi_status, BLK_STS_NOSPC);
}

static void test_sector(struct kunit *test)
{
	struct block_device *bdev = kunit_kzalloc(test, sizeof(*bdev),
						  GFP_KERNEL);
	struct bdev_filter *flt = kunit_kzalloc(test, sizeof(*flt), GFP_KERNEL);
	struct bio bio = { .bi_bdev = bdev };

	KUNIT_ASSERT_NOT_NULL(test, bdev);
	KUNIT_ASSERT_NOT_NULL(test, flt);
	bdev->bd_start_sect = 2048;
	bio.bi_iter.bi_sector = 2058;
	bio.bi_iter.bi_size = SECTOR_SIZE;

	KUNIT_EXPECT_EQ(test, bdev_filter_sector(flt, &bio), 2058);
	flt->on_partition = true;
	KUNIT_EXPECT_EQ(test, bdev_filter_sector(flt, &bio), 10);
	/* The block layer does not remap what has no sectors. */
	bio.bi_iter.bi_sector = 0;
	bio.bi_iter.bi_size = 0;
	KUNIT_EXPECT_EQ(test, bdev_filter_sector(flt, &bio), 0);
}

static struct kunit_case blk_filter_cases[] = {
	KUNIT_CASE(test_bad_operations),
	KUNIT_CASE(test_names_are_unique),
	KUNIT_CASE(test_end_keeps_an_error),
	KUNIT_CASE(test_sector),
	{ }
};

static struct kunit_suite blk_filter_suite = {
	.name		= "blk_filter",
	.test_cases	= blk_filter_cases,
};

/* More than anything here takes, less than KUnit gives to a case. */
#define TEST_TIMEOUT	(10 * HZ)
#define TEST_CAPACITY	64
#define TEST_BIOS	8
#define TEST_SUBMITTERS	3
#define TEST_ROUNDS	200
/* Who submits more waits, see bdev_filter_take(). */
#define TEST_QUEUED	1024

/* What the filter does with a bio; with TEST_MIXED its sector says what. */
enum test_mode {
	TEST_PASS,
	TEST_END,
	TEST_TAKE_END,
	TEST_RESUBMIT,
	TEST_DEFER,
	TEST_HOLD,
	TEST_MIXED,
	TEST_DAWDLE,
};

struct test_io {
	struct bio bio;
	struct bio_vec vec;
	struct completion done;
	blk_status_t status;
	struct block_device *bdev;
	bool intact;
};

static DEFINE_SPINLOCK(test_lock);

/*
 * A disk, its bios, its filter.  A failing assertion ends a case on the spot, so
 * nothing that others use is on a stack.  Cases run one at a time.
 */
static struct {
	struct gendisk *disk;
	struct gendisk *second;
	struct bdev_filter *flt;
	struct bdev_filter *other;
	struct workqueue_struct *wq;
	/* Bios under way, filters not released, works: whoever uses this. */
	atomic_t busy;
	bool added;
	bool stop;

	/* The disk keeps bios, or ends them with this status. */
	bool keep;
	blk_status_t status;
	struct bio_list kept;
	atomic_t arrived;
	sector_t sectors[TEST_BIOS];
	struct block_device *where;
	struct task_struct *submitter;

	enum test_mode mode;
	/* The filter finishes what it holds when it is asked to. */
	bool lets_go;
	/* ->process() sleeps for this, and whether it could. */
	unsigned long nap;
	bool napped;
	struct bio_list held;
	struct bdev_filter *holder;
	atomic_t seen;
	atomic_t processed;
	atomic_t released;
	enum bdev_filter_reason reason;
	struct completion detached;
	/* ->process() waits for this, and TEST_DAWDLE. */
	struct completion gate;

	struct work_struct works[1 + TEST_SUBMITTERS];
	struct completion ended;
	struct completion locked;
	int many;
	atomic_t submitted;
	atomic_t done;
	atomic_t failed;
	struct test_io ios[TEST_BIOS];
} td;

#define EXPECT_COUNT(what, n) \
	KUNIT_EXPECT_EQ(test, atomic_read(&td.what), n)

static void test_put(void)
{
	if (atomic_dec_and_test(&td.busy))
		wake_up_var(&td.busy);
}

static void test_add(struct bio_list *list, struct bio *bio)
{
	guard(spinlock)(&test_lock);
	bio_list_add(list, bio);
}

static struct bio *test_pop(struct bio_list *list)
{
	guard(spinlock)(&test_lock);
	return bio_list_pop(list);
}

static void test_disk_submit_bio(struct bio *bio)
{
	int nr = atomic_fetch_inc(&td.arrived);

	if (nr < TEST_BIOS)
		td.sectors[nr] = bio->bi_iter.bi_sector;
	td.where = bio->bi_bdev;
	td.submitter = current;
	if (td.keep)
		test_add(&td.kept, bio);
	else
		bio_endio_status(bio, td.status);
}

static const struct block_device_operations test_disk_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= test_disk_submit_bio,
};

static void test_resubmit_held(void)
{
	struct bio *bio;

	while ((bio = test_pop(&td.held)))
		bdev_filter_resubmit(td.holder, bio);
}

/* The filter resubmits what it holds, and the disk ends what it kept. */
static void test_let_go(void)
{
	struct bio *bio;

	td.keep = false;
	test_resubmit_held();
	while ((bio = test_pop(&td.kept)))
		bio_endio_status(bio, td.status);
}

static int test_filter_attach(struct bdev_filter *flt, void *data,
			      const char *options)
{
	atomic_inc(&td.busy);
	return 0;
}

static enum bdev_filter_verdict test_filter_submit_bio(struct bdev_filter *flt,
						       struct bio *bio)
{
	enum test_mode mode = READ_ONCE(td.mode);

	atomic_inc(&td.seen);
	if (mode == TEST_MIXED)
		mode = bio->bi_iter.bi_sector % TEST_MIXED;
	/* It must not sleep, nor stay for as long as the checks for stalls allow. */
	for (int i = 0; mode == TEST_DAWDLE && i < 1000; i++) {
		if (completion_done(&td.gate))
			mode = TEST_PASS;
		mdelay(1);
	}
	if (mode == TEST_END)
		return bdev_filter_end(bio, BLK_STS_NOSPC);
	if (mode == TEST_PASS || !bdev_filter_take(flt, bio))
		return BDEV_FILTER_PASS;

	if (mode == TEST_TAKE_END) {
		bdev_filter_endio(flt, bio, BLK_STS_NOSPC);
	} else if (mode == TEST_RESUBMIT) {
		bdev_filter_resubmit(flt, bio);
	} else if (mode == TEST_DEFER) {
		bdev_filter_defer(flt, bio);
	} else {
		WRITE_ONCE(td.holder, flt);
		test_add(&td.held, bio);
	}
	return BDEV_FILTER_TAKEN;
}

static void test_filter_process(struct bdev_filter *flt, struct bio *bio)
{
	atomic_inc(&td.processed);
	if (td.nap)
		td.napped = bdev_filter_sleep(flt, td.nap);
	else
		wait_for_completion(&td.gate);
	bdev_filter_resubmit(flt, bio);
}

static void test_filter_let_go(struct bdev_filter *flt)
{
	if (READ_ONCE(td.lets_go))
		test_resubmit_held();
}

static void test_filter_detached(struct bdev_filter *flt,
				 enum bdev_filter_reason reason)
{
	td.reason = reason;
	complete(&td.detached);
}

static void test_filter_release(struct bdev_filter *flt)
{
	atomic_inc(&td.released);
	test_put();
}

static const struct bdev_filter_operations test_ops = {
	.name		= "kunit",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_TAKES,
	.attach		= test_filter_attach,
	.submit_bio	= test_filter_submit_bio,
	.process	= test_filter_process,
	.let_go		= test_filter_let_go,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static void test_end_io(struct bio *bio)
{
	struct test_io *io = container_of(bio, struct test_io, bio);

	io->status = bio->bi_status;
	io->bdev = bio->bi_bdev;
	io->intact = bio->bi_end_io == test_end_io && bio->bi_private == io;
	bio_uninit(bio);
	complete_all(&io->done);
	test_put();
}

static void test_submit_op(int nr, blk_opf_t opf, sector_t sector)
{
	struct test_io *io = &td.ios[nr];

	bio_init(&io->bio, td.disk->part0, &io->vec, 1, opf);
	__bio_add_page(&io->bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
	io->bio.bi_iter.bi_sector = sector;
	io->bio.bi_end_io = test_end_io;
	io->bio.bi_private = io;
	init_completion(&io->done);
	atomic_inc(&td.busy);
	submit_bio(&io->bio);
}

static void test_submit(int nr, sector_t sector)
{
	test_submit_op(nr, REQ_OP_WRITE, sector);
}

/* For more bios than there are in @td. */
static void test_many_end_io(struct bio *bio)
{
	if (bio->bi_status)
		atomic_inc(&td.failed);
	bio_put(bio);
	atomic_inc(&td.done);
	test_put();
}

static void test_wait(struct kunit *test, struct completion *done)
{
	KUNIT_ASSERT_GT(test, wait_for_completion_timeout(done, TEST_TIMEOUT), 0);
}

#define test_until(test, condition)					\
	do {								\
		bool __done = false;					\
									\
		for (int __i = 0; !__done && __i < TEST_TIMEOUT; __i++) { \
			if (__i)					\
				schedule_timeout_uninterruptible(1);	\
			__done = (condition);				\
		}							\
		KUNIT_ASSERT_TRUE(test, __done);			\
	} while (0)

static void test_reaches(struct kunit *test, atomic_t *count, int n)
{
	test_until(test, atomic_read(count) >= n);
}

/* Whoever could change it has had the time. */
static void test_stays(struct kunit *test, atomic_t *count, int n)
{
	schedule_timeout_uninterruptible(HZ / 20);
	KUNIT_EXPECT_EQ(test, atomic_read(count), n);
}

static void test_expect_status(struct kunit *test, int nr, blk_status_t status)
{
	test_wait(test, &td.ios[nr].done);
	KUNIT_EXPECT_EQ(test, td.ios[nr].status, status);
}

static void test_write(struct kunit *test, sector_t sector, blk_status_t status)
{
	test_submit(0, sector);
	test_expect_status(test, 0, status);
}

static void test_read(struct kunit *test, sector_t sector, blk_status_t status)
{
	test_submit_op(0, REQ_OP_READ, sector);
	test_expect_status(test, 0, status);
}

static int test_try_attach(const struct bdev_filter_operations *ops)
{
	/* Not open, but as good as: nobody else removes the disk. */
	struct bdev_filter *flt = bdev_filter_attach(td.disk->part0, ops, NULL,
						     NULL);

	if (IS_ERR(flt))
		return PTR_ERR(flt);
	td.flt = flt;
	return 0;
}

static void test_attach_ops(struct kunit *test,
			    const struct bdev_filter_operations *ops)
{
	KUNIT_ASSERT_EQ(test, test_try_attach(ops), 0);
}

static void test_attach(struct kunit *test, enum test_mode mode)
{
	td.mode = mode;
	test_attach_ops(test, &test_ops);
}

/* For what may wait: the case goes on and can see that it does. */
static void test_run(int nr, work_func_t function)
{
	INIT_WORK(&td.works[nr], function);
	atomic_inc(&td.busy);
	queue_work(td.wq, &td.works[nr]);
}

static void test_ended(void)
{
	complete(&td.ended);
	test_put();
}

static void test_detach(struct work_struct *work)
{
	struct bdev_filter *flt = td.flt;

	td.flt = NULL;
	bdev_filter_detach(flt);
	test_ended();
}

static void test_remove(struct work_struct *work)
{
	td.added = false;
	del_gendisk(td.disk);
	test_ended();
}

static void test_submit_another(void)
{
	struct bio *bio = bio_alloc(td.disk->part0, 1, REQ_OP_WRITE, GFP_KERNEL);

	__bio_add_page(bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
	bio->bi_iter.bi_sector = 0;
	bio->bi_end_io = test_many_end_io;
	atomic_inc(&td.busy);
	submit_bio(bio);
	atomic_inc(&td.submitted);
}

static void test_submit_many(struct work_struct *work)
{
	for (int i = 0; i < td.many && !READ_ONCE(td.stop); i++)
		test_submit_another();
	test_ended();
}

static void test_set_limits(struct kunit *test, struct gendisk *disk,
			    blk_features_t features, unsigned int block_size,
			    unsigned int dma_alignment)
{
	struct queue_limits lim = queue_limits_start_update(disk->queue);

	lim.features = features;
	lim.logical_block_size = block_size;
	lim.dma_alignment = dma_alignment;
	KUNIT_ASSERT_EQ(test, queue_limits_commit_update(disk->queue, &lim), 0);
}

static struct gendisk *test_add_disk(const char *name)
{
	struct queue_limits lim = { };
	struct gendisk *disk = blk_alloc_disk(&lim, NUMA_NO_NODE);
	int ret;

	if (IS_ERR(disk))
		return disk;
	disk->fops = &test_disk_fops;
	disk->flags |= GENHD_FL_NO_PART;
	strscpy(disk->disk_name, name);
	set_capacity(disk, TEST_CAPACITY);
	ret = add_disk(disk);
	if (!ret)
		return disk;
	put_disk(disk);
	return ERR_PTR(ret);
}

static int test_disk_init(struct kunit *test)
{
	struct gendisk *disk;

	/* A case that failed before has left somebody behind. */
	if (atomic_read(&td.busy))
		return -EBUSY;
	memset(&td, 0, sizeof(td));
	init_completion(&td.detached);
	init_completion(&td.gate);
	init_completion(&td.ended);
	init_completion(&td.locked);
	td.wq = alloc_workqueue("blk-filter-test", WQ_UNBOUND, 0);
	if (!td.wq)
		return -ENOMEM;
	disk = test_add_disk("blkfilter_kunit");
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	td.disk = disk;
	td.added = true;
	return 0;
}

/* Also after an assertion has failed, and after test_disk_init() has. */
static void test_disk_exit(struct kunit *test)
{
	WRITE_ONCE(td.stop, true);
	WRITE_ONCE(td.mode, TEST_PASS);
	WRITE_ONCE(td.lets_go, true);
	complete_all(&td.gate);
	test_let_go();
	if (td.added)
		del_gendisk(td.disk);
	td.added = false;
	if (td.second)
		del_gendisk(td.second);
	wait_var_event_timeout(&td.busy, !atomic_read(&td.busy), TEST_TIMEOUT);
	KUNIT_ASSERT_EQ(test, atomic_read(&td.busy), 0);

	if (td.flt)
		bdev_filter_detach(td.flt);
	if (td.other)
		bdev_filter_detach(td.other);
	put_disk(td.disk);
	put_disk(td.second);
	if (td.wq)
		destroy_workqueue(td.wq);
	memset(&td, 0, sizeof(td));
}

static void test_protected(struct kunit *test)
{
	struct bdev_filter_operations filter_ops = ops("kunit");
	struct bdev_filter flt = { .ops = &filter_ops };
	struct bio_vec vec;
	struct bio bio;

	bio_init(&bio, td.disk->part0, &vec, 1, REQ_OP_WRITE);
	__bio_add_page(&bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(&flt, &bio));
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(&flt, &bio));

	bio.bi_opf = REQ_OP_DISCARD;
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(&flt, &bio));
	KUNIT_EXPECT_FALSE(test, bdev_filter_has_data(&flt, &bio));

	bio.bi_opf = REQ_OP_WRITE | REQ_INTEGRITY;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(&flt, &bio));
	KUNIT_EXPECT_FALSE(test, bdev_filter_has_data(&flt, &bio));
	filter_ops.flags = BDEV_FILTER_ZONED | BDEV_FILTER_CRYPTO;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(&flt, &bio));
	filter_ops.flags = BDEV_FILTER_INTEGRITY;
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(&flt, &bio));

#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	bio.bi_opf = REQ_OP_WRITE;
	bio.bi_crypt_context = (struct bio_crypt_ctx *)test;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(&flt, &bio));
	filter_ops.flags = BDEV_FILTER_CRYPTO;
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(&flt, &bio));
	bio.bi_crypt_context = NULL;
#endif
	bio_uninit(&bio);
}

static void test_pass(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, bdev_filter_register(&test_ops, NULL), 0);
	bdev_filter_unregister(&test_ops);
	test_attach(test, TEST_PASS);
	for (int i = 1; i <= 3; i++) {
		test_write(test, i, BLK_STS_OK);
		EXPECT_COUNT(seen, i);
		EXPECT_COUNT(arrived, i);
	}
	/* What only passed is the disk's, and no reason to wait. */
	td.keep = true;
	test_submit(1, 0);
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_DETACHED);
	EXPECT_COUNT(released, 1);
	test_let_go();
	test_expect_status(test, 1, BLK_STS_OK);

	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 4);
	EXPECT_COUNT(arrived, 5);
}

static void test_second_filter(struct kunit *test)
{
	static struct bdev_filter_operations other;

	other = test_ops;
	other.name = "kunit-other";
	test_attach(test, TEST_PASS);
	KUNIT_EXPECT_EQ(test, test_try_attach(&test_ops), -EALREADY);
	KUNIT_EXPECT_EQ(test, test_try_attach(&other), -EBUSY);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
}

static void test_end(struct kunit *test)
{
	test_attach(test, TEST_END);
	test_write(test, 0, BLK_STS_NOSPC);
	td.mode = TEST_TAKE_END;
	test_write(test, 0, BLK_STS_NOSPC);
	EXPECT_COUNT(arrived, 0);
}

static void test_resubmit(struct kunit *test)
{
	/* Wherever it is called, a worker does it. */
	test_attach(test, TEST_RESUBMIT);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 1);
	KUNIT_EXPECT_PTR_NE(test, td.submitter, current);
	td.mode = TEST_HOLD;
	test_submit(0, 0);
	EXPECT_COUNT(arrived, 1);
	test_let_go();
	test_expect_status(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 2);
	KUNIT_EXPECT_PTR_NE(test, td.submitter, current);
	EXPECT_COUNT(seen, 2);
}

/* The first of them stays in ->process() until the gate opens. */
static void test_defer(struct kunit *test)
{
	test_attach(test, TEST_DEFER);
	for (int i = 0; i < TEST_BIOS; i++)
		test_submit(i, TEST_BIOS - i);
	test_reaches(test, &td.processed, 1);
	EXPECT_COUNT(arrived, 0);
}

static void test_expect_order(struct kunit *test)
{
	for (int i = 0; i < TEST_BIOS; i++) {
		test_expect_status(test, i, BLK_STS_OK);
		KUNIT_EXPECT_EQ(test, td.sectors[i], TEST_BIOS - i);
	}
	EXPECT_COUNT(seen, TEST_BIOS);
	EXPECT_COUNT(arrived, TEST_BIOS);
}

static void test_process(struct kunit *test)
{
	test_defer(test);
	complete_all(&td.gate);
	test_expect_order(test);
	EXPECT_COUNT(processed, TEST_BIOS);
}

static void test_detach_while_deferred(struct kunit *test)
{
	struct bdev_filter_core *core;

	test_defer(test);
	core = td.flt->core;
	test_run(0, test_detach);
	test_until(test, READ_ONCE(core->leaving));
	KUNIT_EXPECT_FALSE(test, completion_done(&td.detached));
	complete_all(&td.gate);
	test_wait(test, &td.ended);
	/* The core has resubmitted all but the first. */
	test_expect_order(test);
	EXPECT_COUNT(processed, 1);
}

static void test_detach_waits(struct kunit *test)
{
	test_attach(test, TEST_HOLD);
	test_submit(1, 0);
	test_run(0, test_detach);
	test_wait(test, &td.detached);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_DETACHED);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&td.ended, HZ / 20), 0);
	EXPECT_COUNT(released, 0);

	test_let_go();
	test_wait(test, &td.ended);
	EXPECT_COUNT(released, 1);
	test_expect_status(test, 1, BLK_STS_OK);
}

static void test_submit_one(struct work_struct *work)
{
	test_submit(work - td.works, 0);
	test_ended();
}

static void test_detach_during_submit(struct kunit *test)
{
	test_attach(test, TEST_DAWDLE);
	test_run(1, test_submit_one);
	test_reaches(test, &td.seen, 1);
	test_run(0, test_detach);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&td.detached, HZ / 20), 0);
	complete_all(&td.gate);
	test_wait(test, &td.ended);
	test_wait(test, &td.ended);
	test_expect_status(test, 1, BLK_STS_OK);
	EXPECT_COUNT(released, 1);
}

static void test_removal(struct kunit *test)
{
	test_attach(test, TEST_HOLD);
	test_submit(0, 0);
	test_run(0, test_remove);
	test_wait(test, &td.ended);
	test_wait(test, &td.detached);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_REMOVED);
	EXPECT_COUNT(released, 0);
	KUNIT_EXPECT_FALSE(test, completion_done(&td.ios[0].done));

	test_let_go();
	test_expect_status(test, 0, BLK_STS_IOERR);
	EXPECT_COUNT(arrived, 0);
	/* Who attached it need not know of the removal. */
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	EXPECT_COUNT(released, 1);
}

static void test_attach_too_late(struct kunit *test)
{
	blk_mark_disk_dead(td.disk);
	KUNIT_EXPECT_EQ(test, test_try_attach(&test_ops), -ENODEV);
	test_run(0, test_remove);
	test_wait(test, &td.ended);
	KUNIT_EXPECT_EQ(test, test_try_attach(&test_ops), -ENODEV);
	/* Each after its ->attach(). */
	EXPECT_COUNT(released, 2);
}

static void test_beyond_the_end(struct kunit *test)
{
	test_attach(test, TEST_HOLD);
	test_write(test, TEST_CAPACITY, BLK_STS_IOERR);
	EXPECT_COUNT(seen, 0);
	/* The disk shrinks while the filter has the bio. */
	test_submit(0, TEST_CAPACITY - 1);
	set_capacity(td.disk, TEST_CAPACITY - 1);
	test_let_go();
	test_expect_status(test, 0, BLK_STS_IOERR);
	EXPECT_COUNT(arrived, 0);
}

/* The same, but it does not keep them. */
static void test_detach_lets_go(struct kunit *test)
{
	td.lets_go = true;
	test_attach(test, TEST_HOLD);
	test_submit(0, 0);
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	test_expect_status(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 1);
	EXPECT_COUNT(released, 1);
}

static void test_sleep(struct kunit *test)
{
	test_attach(test, TEST_DEFER);
	td.nap = 1;
	test_write(test, 0, BLK_STS_OK);
	KUNIT_EXPECT_TRUE(test, td.napped);
	/* Longer than the case may take. */
	td.nap = 60 * HZ;
	test_submit(0, 0);
	test_reaches(test, &td.processed, 2);
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	test_expect_status(test, 0, BLK_STS_OK);
	KUNIT_EXPECT_FALSE(test, td.napped);
}

static void test_early_process(struct bdev_filter *flt, struct bio *bio)
{
	bdev_filter_resubmit(flt, bio);
	td.napped = bdev_filter_sleep(flt, 60 * HZ);
}

/* What ->process() has resubmitted does not wait until it has slept. */
static void test_resubmit_and_sleep(struct kunit *test)
{
	static struct bdev_filter_operations early;

	early = test_ops;
	early.process = test_early_process;
	td.mode = TEST_DEFER;
	td.napped = true;
	test_attach_ops(test, &early);
	test_write(test, 0, BLK_STS_OK);
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	KUNIT_EXPECT_FALSE(test, td.napped);
}

static void test_bound(struct kunit *test)
{
	test_attach(test, TEST_DEFER);
	td.many = TEST_QUEUED + 5;
	test_run(1, test_submit_many);
	/* One is being processed, many are queued, and for the last of them it waits. */
	test_reaches(test, &td.seen, TEST_QUEUED + 2);
	test_stays(test, &td.seen, TEST_QUEUED + 2);
	EXPECT_COUNT(submitted, TEST_QUEUED + 1);
	/* One less, so one more. */
	complete(&td.gate);
	test_reaches(test, &td.seen, TEST_QUEUED + 3);
	test_stays(test, &td.submitted, TEST_QUEUED + 2);

	/* Who waits is no bio, but the filter stays for it. */
	test_run(0, test_detach);
	complete_all(&td.gate);
	test_wait(test, &td.ended);
	test_wait(test, &td.ended);
	test_reaches(test, &td.done, td.many);
	EXPECT_COUNT(arrived, td.many);
	EXPECT_COUNT(failed, 0);
	EXPECT_COUNT(released, 1);
}

/* Who goes on does so with as many as there is room for. */
static void test_bound_for_many(struct kunit *test)
{
	test_attach(test, TEST_DEFER);
	test_submit_another();
	test_reaches(test, &td.processed, 1);
	for (int i = 0; i < TEST_QUEUED; i++)
		test_submit_another();
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_run(nr, test_submit_one);
	test_reaches(test, &td.seen, 1 + TEST_QUEUED + TEST_SUBMITTERS);
	test_stays(test, &td.done, 0);
	KUNIT_EXPECT_FALSE(test, completion_done(&td.ended));
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		complete(&td.gate);
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_wait(test, &td.ended);
	complete_all(&td.gate);
	test_reaches(test, &td.done, 1 + TEST_QUEUED);
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_expect_status(test, nr, BLK_STS_OK);
}

/* As who reads the partition table of the disk does. */
static void test_hold_open_mutex(struct work_struct *work)
{
	mutex_lock(&td.disk->open_mutex);
	complete(&td.locked);
	wait_for_completion(&td.gate);
	mutex_unlock(&td.disk->open_mutex);
	test_ended();
}

/* The removal waits for open_mutex, until the gate opens. */
static void test_start_removal(struct kunit *test)
{
	test_run(1, test_hold_open_mutex);
	test_wait(test, &td.locked);
	test_run(0, test_remove);
	test_until(test, READ_ONCE(td.disk->filter_going));
}

static void test_end_removal(struct kunit *test)
{
	complete_all(&td.gate);
	test_wait(test, &td.ended);
	test_wait(test, &td.ended);
}

static void test_going(struct kunit *test)
{
	td.lets_go = true;
	test_attach(test, TEST_HOLD);
	test_submit(0, 0);
	test_start_removal(test);
	test_expect_status(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 1);
	/* It is shown what still comes, but does not get it. */
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 2);
	EXPECT_COUNT(arrived, 2);
	KUNIT_EXPECT_FALSE(test, completion_done(&td.detached));

	test_end_removal(test);
	test_wait(test, &td.detached);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_REMOVED);
	test_reaches(test, &td.released, 1);
}

static void test_attach_while_going(struct kunit *test)
{
	test_start_removal(test);
	KUNIT_EXPECT_EQ(test, test_try_attach(&test_ops), -ENODEV);
	EXPECT_COUNT(released, 1);
	test_end_removal(test);
}

/* ->process() of what was deferred does not hold up a removal for long either. */
static void test_going_while_deferred(struct kunit *test)
{
	struct bdev_filter_core *core;

	test_attach(test, TEST_DEFER);
	core = td.flt->core;
	td.nap = 60 * HZ;
	for (int i = 0; i < TEST_BIOS; i++)
		test_submit(i, TEST_BIOS - i);
	test_reaches(test, &td.processed, 1);
	test_start_removal(test);
	test_expect_order(test);
	EXPECT_COUNT(processed, 1);
	test_until(test, READ_ONCE(core->left));
	test_end_removal(test);
}

static void test_dead(struct kunit *test)
{
	td.lets_go = true;
	test_attach(test, TEST_HOLD);
	test_submit(0, 0);
	blk_mark_disk_dead(td.disk);
	/* How depends on who was faster. */
	test_wait(test, &td.ios[0].done);
	test_write(test, 0, BLK_STS_IOERR);
	EXPECT_COUNT(seen, 1);
	KUNIT_EXPECT_FALSE(test, completion_done(&td.detached));
	/* Nor does it matter for a detach. */
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_DETACHED);
	EXPECT_COUNT(released, 1);
}

static struct bdev_filter *test_failed;

static int test_failing_attach(struct bdev_filter *flt, void *data,
			       const char *options)
{
	bdev_filter_get_handle(flt);
	test_failed = flt;
	return -E2BIG;
}

static void test_attach_fails(struct kunit *test)
{
	static struct bdev_filter_operations failing;

	failing = test_ops;
	failing.flags = BDEV_FILTER_TAKES | BDEV_FILTER_ARMS;
	failing.attach = test_failing_attach;
	KUNIT_ASSERT_EQ(test, test_try_attach(&failing), -E2BIG);
	EXPECT_COUNT(released, 0);
	KUNIT_EXPECT_FALSE(test, bdev_filter_is_attached(test_failed));
	/* But for ours no handle is left, and no reference. */
	test_until(test, refcount_read(&test_failed->core->handles) == 1);
	KUNIT_EXPECT_EQ(test, refcount_read(&test_failed->core->refs), 0);
	bdev_filter_put_handle(test_failed);
	test_attach(test, TEST_PASS);
}

static int test_racing_attach(struct bdev_filter *flt, void *data,
			      const char *options)
{
	test_filter_attach(flt, data, options);
	return test_try_attach(&test_ops);
}

static void test_attach_loses(struct kunit *test)
{
	static struct bdev_filter_operations racing;

	racing = test_ops;
	racing.name = "kunit-racing";
	racing.attach = test_racing_attach;
	KUNIT_EXPECT_EQ(test, test_try_attach(&racing), -EBUSY);
	EXPECT_COUNT(released, 1);
	KUNIT_ASSERT_NOT_NULL(test, td.flt);
	KUNIT_EXPECT_TRUE(test, bdev_filter_is_attached(td.flt));
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
}

static enum bdev_filter_verdict
test_detaching_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	atomic_inc(&td.seen);
	bdev_filter_detach(flt);
	return BDEV_FILTER_PASS;
}

static void test_detach_in_method(struct kunit *test)
{
	static struct bdev_filter_operations detaching;

	detaching = test_ops;
	detaching.submit_bio = test_detaching_submit_bio;
	test_attach_ops(test, &detaching);
	/* It gives up the handle. */
	td.flt = NULL;
	kunit_warning_suppress(test) {
		test_write(test, 0, BLK_STS_OK);
	}
	test_reaches(test, &td.released, 1);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
}

/* What it may do its flags say. */
static enum bdev_filter_verdict
test_undeclared_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	if (!bdev_filter_take(flt, bio))
		atomic_inc(&td.seen);
	return BDEV_FILTER_PASS;
}

static void test_undeclared(struct kunit *test)
{
	static struct bdev_filter_operations undeclared;

	undeclared = test_ops;
	undeclared.flags = 0;
	undeclared.submit_bio = test_undeclared_submit_bio;
	test_attach_ops(test, &undeclared);
	/* Nor does it cost a worker. */
	KUNIT_EXPECT_NULL(test, td.flt->core->process_wq);
	KUNIT_EXPECT_NULL(test, td.flt->core->hook_pool);
	kunit_warning_suppress(test) {
		test_write(test, 0, BLK_STS_OK);
	}
	EXPECT_COUNT(seen, 1);
}

static void test_keep_submitting(struct work_struct *work)
{
	int nr = work - td.works;

	for (sector_t sector = 0; !READ_ONCE(td.stop); sector++) {
		test_submit(nr, sector % TEST_CAPACITY);
		wait_for_completion(&td.ios[nr].done);
		atomic_inc(&td.submitted);
		if (td.ios[nr].status)
			atomic_inc(&td.failed);
		/* Leave some time to whoever attaches and detaches. */
		if (sector % TEST_BIOS == 0)
			schedule_timeout_uninterruptible(1);
	}
	test_ended();
}

/* Attach and detach, again and again, while bios are on their way. */
static void test_stress_ops(struct kunit *test,
			    const struct bdev_filter_operations *ops)
{
	td.mode = TEST_MIXED;
	td.lets_go = true;
	complete_all(&td.gate);
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_run(nr, test_keep_submitting);
	for (int i = 0; i < TEST_ROUNDS; i++) {
		int seen = atomic_read(&td.seen);

		test_attach_ops(test, ops);
		test_reaches(test, &td.seen, seen + 1);
		test_run(0, test_detach);
		test_wait(test, &td.ended);
	}
	WRITE_ONCE(td.stop, true);
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_wait(test, &td.ended);

	EXPECT_COUNT(released, TEST_ROUNDS);
	/* Only the filter fails any. */
	EXPECT_COUNT(arrived, atomic_read(&td.submitted) -
			      atomic_read(&td.failed));
	kunit_info(test, "%d bios, %d seen, %d ended by the filter\n",
		   atomic_read(&td.submitted), atomic_read(&td.seen),
		   atomic_read(&td.failed));
}

static void test_stress(struct kunit *test)
{
	test_stress_ops(test, &test_ops);
}

static struct kunit_case blk_filter_disk_cases[] = {
	KUNIT_CASE(test_protected),
	KUNIT_CASE(test_pass),
	KUNIT_CASE(test_second_filter),
	KUNIT_CASE(test_attach_fails),
	KUNIT_CASE(test_attach_loses),
	KUNIT_CASE(test_undeclared),
	KUNIT_CASE(test_end),
	KUNIT_CASE(test_resubmit),
	KUNIT_CASE(test_process),
	KUNIT_CASE(test_detach_while_deferred),
	KUNIT_CASE(test_detach_waits),
	KUNIT_CASE(test_detach_during_submit),
	KUNIT_CASE(test_detach_in_method),
	KUNIT_CASE(test_detach_lets_go),
	KUNIT_CASE(test_sleep),
	KUNIT_CASE(test_resubmit_and_sleep),
	KUNIT_CASE(test_bound),
	KUNIT_CASE(test_bound_for_many),
	KUNIT_CASE(test_going),
	KUNIT_CASE(test_going_while_deferred),
	KUNIT_CASE(test_dead),
	KUNIT_CASE(test_removal),
	KUNIT_CASE(test_attach_while_going),
	KUNIT_CASE(test_attach_too_late),
	KUNIT_CASE(test_beyond_the_end),
	KUNIT_CASE_SLOW(test_stress),
	{ }
};

static struct kunit_suite blk_filter_disk_suite = {
	.name		= "blk_filter_disk",
	.init		= test_disk_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_disk_cases,
};

/* How a disk becomes one with zones, as one with a new table of device mapper may. */
static void test_make_zoned(struct kunit *test)
{
	if (!IS_ENABLED(CONFIG_BLK_DEV_ZONED))
		kunit_skip(test, "no zoned devices");
	test_set_limits(test, td.disk, BLK_FEAT_ZONED, SECTOR_SIZE,
			SECTOR_SIZE - 1);
}

static void test_zone_ops(struct kunit *test)
{
	static const enum req_op zone_ops[] = {
		REQ_OP_WRITE, REQ_OP_ZONE_APPEND, REQ_OP_ZONE_OPEN, REQ_OP_ZONE_CLOSE,
		REQ_OP_ZONE_FINISH, REQ_OP_ZONE_RESET, REQ_OP_ZONE_RESET_ALL,
	};
	struct bdev_filter_operations filter_ops = ops("kunit");
	struct bdev_filter flt = { .ops = &filter_ops };
	struct bio bio;

	test_make_zoned(test);
	bio_init(&bio, td.disk->part0, NULL, 0, REQ_OP_READ);
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(&flt, &bio));
	for (int i = 0; i < ARRAY_SIZE(zone_ops); i++) {
		bio.bi_opf = zone_ops[i];
		filter_ops.flags = 0;
		KUNIT_EXPECT_TRUE(test, bdev_filter_protected(&flt, &bio));
		filter_ops.flags = BDEV_FILTER_ZONED;
		KUNIT_EXPECT_FALSE(test, bdev_filter_protected(&flt, &bio));
	}
	bio_uninit(&bio);
}

static void test_becomes_zoned(struct kunit *test)
{
	test_attach(test, TEST_HOLD);
	test_make_zoned(test);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
	EXPECT_COUNT(arrived, 1);
	test_submit_op(0, REQ_OP_READ, 0);
	EXPECT_COUNT(arrived, 1);
	test_let_go();
	test_expect_status(test, 0, BLK_STS_OK);
}

static const struct bdev_filter_operations test_zoned_ops = {
	.name		= "kunit-zoned",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_TAKES | BDEV_FILTER_ZONED,
	.attach		= test_filter_attach,
	.submit_bio	= test_filter_submit_bio,
	.process	= test_filter_process,
	.let_go		= test_filter_let_go,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

#define TEST_DEFERRED	4

static void test_submit_rest(struct work_struct *work)
{
	for (int i = TEST_DEFERRED; i < TEST_BIOS - 1; i++)
		test_submit(i, i);
	test_ended();
}

/* Writes that come while the filter leaves do not overtake those that it has. */
static void test_gate(struct kunit *test)
{
	struct bdev_filter_core *core;

	test_make_zoned(test);
	KUNIT_EXPECT_EQ(test, test_try_attach(&test_ops), -EOPNOTSUPP);
	/* Found out before ->attach(). */
	EXPECT_COUNT(released, 0);
	td.mode = TEST_DEFER;
	test_attach_ops(test, &test_zoned_ops);
	core = td.flt->core;
	for (int i = 0; i < TEST_DEFERRED; i++)
		test_submit(i, i);
	test_reaches(test, &td.processed, 1);
	test_run(0, test_detach);
	test_until(test, READ_ONCE(core->gated));
	test_run(1, test_submit_rest);
	/* Reads need not wait. */
	test_submit_op(TEST_BIOS - 1, REQ_OP_READ, 0);
	test_expect_status(test, TEST_BIOS - 1, BLK_STS_OK);
	test_stays(test, &td.arrived, 1);

	complete_all(&td.gate);
	test_wait(test, &td.ended);
	test_wait(test, &td.ended);
	for (int i = 0; i < TEST_BIOS - 1; i++) {
		test_expect_status(test, i, BLK_STS_OK);
		KUNIT_EXPECT_EQ(test, td.sectors[1 + i], i);
	}
	EXPECT_COUNT(arrived, TEST_BIOS);
	EXPECT_COUNT(seen, TEST_DEFERRED);
	EXPECT_COUNT(processed, 1);
}

/* The same when the device goes, while it still takes bios. */
static void test_gate_while_going(struct kunit *test)
{
	td.lets_go = true;
	td.mode = TEST_HOLD;
	test_make_zoned(test);
	test_attach_ops(test, &test_zoned_ops);
	for (int i = 0; i < TEST_DEFERRED; i++)
		test_submit(i, i);
	test_start_removal(test);
	for (int i = TEST_DEFERRED; i < TEST_BIOS; i++)
		test_submit(i, i);
	for (int i = 0; i < TEST_BIOS; i++) {
		test_expect_status(test, i, BLK_STS_OK);
		KUNIT_EXPECT_EQ(test, td.sectors[i], i);
	}
	/* It is shown those, but when the gate is open again. */
	EXPECT_COUNT(seen, TEST_BIOS);
	test_end_removal(test);
}

static struct kunit_case blk_filter_zoned_cases[] = {
	KUNIT_CASE(test_zone_ops),
	KUNIT_CASE(test_becomes_zoned),
	KUNIT_CASE(test_gate),
	KUNIT_CASE(test_gate_while_going),
	{ }
};

static struct kunit_suite blk_filter_zoned_suite = {
	.name		= "blk_filter_zoned",
	.init		= test_disk_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_zoned_cases,
};

kunit_test_suites(&blk_filter_suite, &blk_filter_disk_suite,
		  &blk_filter_zoned_suite);

/* I/O of a filter's own, in ->process(), or of one that saves, in ->detached(). */
struct test_own {
	const char *what;
	blk_opf_t opf;
	sector_t sector;
	unsigned int nr, len;
	int ret;
};

static const struct test_own *test_owns;
static int test_nr_owns, test_openers;
static int test_rets[16];

static int test_submit_own(struct bdev_filter *flt, struct bio *owned,
			   const struct test_own *own)
{
	struct bio_vec vecs[2];
	struct bio bio;
	int ret;

	bio_init(&bio, NULL, vecs, ARRAY_SIZE(vecs), own->opf);
	for (int i = 0; i < own->nr; i++)
		__bio_add_page(&bio, ZERO_PAGE(0), own->len, 0);
	bio.bi_iter.bi_sector = own->sector;
	ret = bdev_filter_submit_wait(flt, owned, &bio);
	bio_uninit(&bio);
	return ret;
}

static void test_submit_owns(struct bdev_filter *flt, struct bio *owned)
{
	for (int i = 0; i < test_nr_owns; i++)
		test_rets[i] = test_submit_own(flt, owned, &test_owns[i]);
}

static void test_own_process(struct bdev_filter *flt, struct bio *bio)
{
	test_submit_owns(flt, bio);
	bdev_filter_resubmit(flt, bio);
}

static void test_own_detached(struct bdev_filter *flt,
			      enum bdev_filter_reason reason)
{
	test_openers = atomic_read(&td.disk->part0->bd_openers);
	test_submit_owns(flt, NULL);
	test_filter_detached(flt, reason);
}

static const struct bdev_filter_operations test_own_ops = {
	.name		= "kunit-own",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_TAKES,
	.attach		= test_filter_attach,
	.submit_bio	= test_filter_submit_bio,
	.process	= test_own_process,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static const struct bdev_filter_operations test_saving_ops = {
	.name		= "kunit-saving",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_SAVES,
	.attach		= test_filter_attach,
	.submit_bio	= test_filter_submit_bio,
	.detached	= test_own_detached,
	.release	= test_filter_release,
};

static void test_set_owns(const struct test_own *owns, int nr)
{
	memset(test_rets, 0, sizeof(test_rets));
	test_openers = 0;
	test_owns = owns;
	test_nr_owns = nr;
}

static void test_expect_owns(struct kunit *test)
{
	for (int i = 0; i < test_nr_owns; i++)
		KUNIT_EXPECT_EQ_MSG(test, test_rets[i], test_owns[i].ret, "%s",
				    test_owns[i].what);
}

static void test_own_io(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "read", REQ_OP_READ, 5, 1, 512, 0 },
		{ "write", REQ_OP_WRITE, TEST_CAPACITY - 2, 2, 512, 0 },
		{ "flush", REQ_OP_WRITE | REQ_PREFLUSH, 0, 0, 0, 0 },
		{ "at the end", REQ_OP_READ, TEST_CAPACITY, 1, 512, -EINVAL },
		{ "across it", REQ_OP_READ, TEST_CAPACITY - 1, 2, 512, -EINVAL },
		{ "wrap", REQ_OP_WRITE, (sector_t)-1, 2, 512, -EINVAL },
		{ "half a block", REQ_OP_READ, 0, 1, 256, -EINVAL },
		{ "two halves", REQ_OP_READ, 0, 2, 256, -EINVAL },
		{ "empty read", REQ_OP_READ, 0, 0, 0, -EINVAL },
		{ "empty write", REQ_OP_WRITE, 0, 0, 0, -EINVAL },
		{ "empty discard", REQ_OP_DISCARD, 0, 0, 0, -EINVAL },
		{ "flushing read", REQ_OP_READ | REQ_PREFLUSH, 0, 1, 512, -EINVAL },
		{ "FUA read", REQ_OP_READ | REQ_FUA, 0, 1, 512, -EINVAL },
	};

	static_assert(ARRAY_SIZE(owns) <= ARRAY_SIZE(test_rets));
	test_set_owns(owns, ARRAY_SIZE(owns));
	td.mode = TEST_DEFER;
	test_attach_ops(test, &test_own_ops);
	test_write(test, 7, BLK_STS_OK);
	test_expect_owns(test);
	/* No more than those, before the bio, and the filter saw only that. */
	EXPECT_COUNT(arrived, 3);
	KUNIT_EXPECT_EQ(test, td.sectors[0], 5);
	KUNIT_EXPECT_EQ(test, td.sectors[1], TEST_CAPACITY - 2);
	KUNIT_EXPECT_EQ(test, td.sectors[2], 7);
	EXPECT_COUNT(seen, 1);
}

static void test_own_large_blocks(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "block", REQ_OP_READ, 8, 1, 4096, 0 },
		{ "sector", REQ_OP_READ, 8, 1, 512, -EINVAL },
		{ "askew", REQ_OP_READ, 1, 1, 4096, -EINVAL },
	};

	test_set_limits(test, td.disk, 0, 4096, SECTOR_SIZE - 1);
	test_set_owns(owns, ARRAY_SIZE(owns));
	td.mode = TEST_DEFER;
	test_attach_ops(test, &test_own_ops);
	/* Nor is the bio of a block when it goes on. */
	test_read(test, 0, BLK_STS_INVAL);
	test_expect_owns(test);
	EXPECT_COUNT(arrived, 1);
}

static void test_own_read_only(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "read", REQ_OP_READ, 0, 1, 512, 0 },
		{ "write", REQ_OP_WRITE, 0, 1, 512, -EROFS },
	};

	set_disk_ro(td.disk, true);
	test_set_owns(owns, ARRAY_SIZE(owns));
	td.mode = TEST_DEFER;
	test_attach_ops(test, &test_own_ops);
	test_read(test, 0, BLK_STS_OK);
	test_expect_owns(test);
	EXPECT_COUNT(arrived, 2);
}

static void test_own_fails(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "read", REQ_OP_READ, 0, 1, 512, -ENOLINK },
	};

	td.status = BLK_STS_TRANSPORT;
	test_set_owns(owns, ARRAY_SIZE(owns));
	td.mode = TEST_DEFER;
	test_attach_ops(test, &test_own_ops);
	test_read(test, 0, BLK_STS_TRANSPORT);
	test_expect_owns(test);
	/* Without a bio of the device nobody has that open. */
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, test_submit_own(td.flt, NULL, owns),
				-EINVAL);
	}
	EXPECT_COUNT(arrived, 2);
}

static void test_saves(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "write", REQ_OP_WRITE, 9, 1, 512, 0 },
	};

	test_set_owns(owns, ARRAY_SIZE(owns));
	test_attach_ops(test, &test_saving_ops);
	test_run(0, test_detach);
	test_wait(test, &td.ended);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_DETACHED);
	test_expect_owns(test);
	KUNIT_EXPECT_EQ(test, test_openers, 1);
	EXPECT_COUNT(arrived, 1);
	KUNIT_EXPECT_EQ(test, td.sectors[0], 9);
	EXPECT_COUNT(seen, 0);
	/* Whoever waits for the detach can remove the device then. */
	KUNIT_EXPECT_EQ(test, atomic_read(&td.disk->part0->bd_openers), 0);
}

static void test_saves_too_late(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "write", REQ_OP_WRITE, 9, 1, 512, -ENODEV },
	};

	test_set_owns(owns, ARRAY_SIZE(owns));
	test_attach_ops(test, &test_saving_ops);
	test_run(0, test_remove);
	test_wait(test, &td.ended);
	test_wait(test, &td.detached);
	KUNIT_EXPECT_EQ(test, td.reason, BDEV_FILTER_REMOVED);
	test_expect_owns(test);
	KUNIT_EXPECT_EQ(test, test_openers, 0);
	EXPECT_COUNT(arrived, 0);
}

static struct kunit_case blk_filter_own_cases[] = {
	KUNIT_CASE(test_own_io),
	KUNIT_CASE(test_own_large_blocks),
	KUNIT_CASE(test_own_read_only),
	KUNIT_CASE(test_own_fails),
	KUNIT_CASE(test_saves),
	KUNIT_CASE(test_saves_too_late),
	{ }
};

static struct kunit_suite blk_filter_own_suite = {
	.name		= "blk_filter_own",
	.init		= test_disk_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_own_cases,
};

kunit_test_suite(blk_filter_own_suite);

/* What a hook saw, and what the submitter shall see. */
static blk_status_t test_hook_saw, test_hook_says;

/* Between these lie all frames of a hook, from the end of their stacks. */
static unsigned long test_lowest, test_highest;

static noinline void test_note_stack(void)
{
	unsigned long depth = (unsigned long)__builtin_frame_address(0) -
			      (unsigned long)task_stack_page(current);

	test_lowest = min(test_lowest, depth);
	test_highest = max(test_highest, depth);
}

static void test_expect_flat_stack(struct kunit *test)
{
	KUNIT_EXPECT_NE(test, test_highest, 0);
	KUNIT_EXPECT_LT(test, test_highest - test_lowest, 2048);
}

static int test_hook_init(struct kunit *test)
{
	test_hook_saw = BLK_STS_OK;
	test_hook_says = BLK_STS_OK;
	test_lowest = ULONG_MAX;
	test_highest = 0;
	return test_disk_init(test);
}

static void test_hook_end(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_hook *hook)
{
	atomic_inc(&td.processed);
	test_note_stack();
	test_hook_saw = bio->bi_status;
	bio->bi_status = test_hook_says;
}

static enum bdev_filter_verdict test_hook_submit_bio(struct bdev_filter *flt,
						     struct bio *bio)
{
	if (!bdev_filter_arm(flt, bio, test_hook_end))
		return bdev_filter_end(bio, BLK_STS_RESOURCE);
	return BDEV_FILTER_PASS;
}

static const struct bdev_filter_operations test_hook_ops = {
	.name		= "kunit-hook",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_ARMS,
	.attach		= test_filter_attach,
	.submit_bio	= test_hook_submit_bio,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static void test_hook(struct kunit *test)
{
	test_attach_ops(test, &test_hook_ops);
	test_hook_says = BLK_STS_MEDIUM;
	test_write(test, 0, BLK_STS_MEDIUM);
	KUNIT_EXPECT_EQ(test, test_hook_saw, BLK_STS_OK);
	EXPECT_COUNT(processed, 1);

	td.status = BLK_STS_TRANSPORT;
	test_hook_says = BLK_STS_OK;
	test_write(test, 0, BLK_STS_OK);
	KUNIT_EXPECT_EQ(test, test_hook_saw, BLK_STS_TRANSPORT);
	EXPECT_COUNT(processed, 2);
}

static void test_detach_waits_for_hook(struct kunit *test)
{
	test_attach_ops(test, &test_hook_ops);
	td.keep = true;
	test_submit(0, 0);
	test_run(0, test_detach);
	test_wait(test, &td.detached);
	KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&td.ended, HZ / 20), 0);
	EXPECT_COUNT(processed, 0);
	test_let_go();
	test_wait(test, &td.ended);
	EXPECT_COUNT(processed, 1);
	EXPECT_COUNT(released, 1);
}

/* Who was called when, and whether with what it was armed with. */
static int test_first, test_last;

static void test_first_end(struct bdev_filter *flt, struct bio *bio,
			   struct bdev_filter_hook *hook)
{
	test_first = atomic_inc_return(&td.processed);
	if (hook->data[0] == 1 && hook->sector == 3 &&
	    hook->iter.bi_size == SECTOR_SIZE)
		atomic_inc(&td.done);
}

static void test_last_end(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_hook *hook)
{
	test_last = atomic_inc_return(&td.processed);
	if (hook->data[0] == 2 && hook->sector == 3 &&
	    hook->iter.bi_size == SECTOR_SIZE)
		atomic_inc(&td.done);
}

static enum bdev_filter_verdict
test_twice_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	struct bdev_filter_hook *first, *last;

	first = bdev_filter_arm(flt, bio, test_first_end);
	if (!first)
		return bdev_filter_end(bio, BLK_STS_RESOURCE);
	first->data[0] = 1;
	last = bdev_filter_arm(flt, bio, test_last_end);
	if (!last)
		return bdev_filter_end(bio, BLK_STS_RESOURCE);
	last->data[0] = 2;
	return BDEV_FILTER_PASS;
}

static void test_two_hooks(struct kunit *test)
{
	static struct bdev_filter_operations twice;

	twice = test_hook_ops;
	twice.submit_bio = test_twice_submit_bio;
	test_attach_ops(test, &twice);
	td.keep = true;
	test_submit(0, 3);
	EXPECT_COUNT(arrived, 1);
	KUNIT_EXPECT_EQ(test, blk_filter_in_use(td.flt->core), 3);
	test_let_go();
	test_expect_status(test, 0, BLK_STS_OK);
	KUNIT_EXPECT_EQ(test, blk_filter_in_use(td.flt->core), 1);
	EXPECT_COUNT(processed, 2);
	EXPECT_COUNT(done, 2);
	KUNIT_EXPECT_EQ(test, test_last, 1);
	KUNIT_EXPECT_EQ(test, test_first, 2);
	/* The submitter has its own back. */
	KUNIT_EXPECT_TRUE(test, td.ios[0].intact);
}

#define TEST_CHAIN	3000

/* As discards of much are, and the first completes last. */
static void test_chain(struct kunit *test)
{
	struct bio *bio = NULL, *first;

	test_attach_ops(test, &test_hook_ops);
	td.keep = true;
	for (int i = 0; i < TEST_CHAIN; i++) {
		bio = blk_next_bio(bio, td.disk->part0, 1, REQ_OP_WRITE,
				   GFP_KERNEL);
		__bio_add_page(bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
		bio->bi_iter.bi_sector = i % TEST_CAPACITY;
	}
	bio->bi_end_io = test_many_end_io;
	atomic_inc(&td.busy);
	submit_bio(bio);
	EXPECT_COUNT(arrived, TEST_CHAIN);
	EXPECT_COUNT(failed, 0);

	td.keep = false;
	first = test_pop(&td.kept);
	while ((bio = test_pop(&td.kept)))
		bio_endio(bio);
	EXPECT_COUNT(processed, 0);
	EXPECT_COUNT(done, 0);
	bio_endio(first);
	EXPECT_COUNT(processed, TEST_CHAIN);
	EXPECT_COUNT(done, 1);
	KUNIT_EXPECT_EQ(test, blk_filter_in_use(td.flt->core), 1);
	test_expect_flat_stack(test);
}

/* One bio at a time, the next when that has completed. */
static bool test_serial_busy;

static struct bio *test_serial_next(void)
{
	struct bio *bio;

	guard(spinlock)(&test_lock);
	bio = bio_list_pop(&td.held);
	test_serial_busy = bio;
	return bio;
}

static bdev_filter_end_io_t test_serial_end;

static void test_serial_go(struct bdev_filter *flt, struct bio *bio)
{
	while (bio && !bdev_filter_arm(flt, bio, test_serial_end)) {
		bdev_filter_endio(flt, bio, BLK_STS_RESOURCE);
		bio = test_serial_next();
	}
	if (bio)
		bdev_filter_resubmit(flt, bio);
}

static void test_serial_end(struct bdev_filter *flt, struct bio *bio,
			    struct bdev_filter_hook *hook)
{
	atomic_inc(&td.processed);
	/* The first is completed by the case itself. */
	if (current_work())
		test_note_stack();
	test_serial_go(flt, test_serial_next());
}

static enum bdev_filter_verdict
test_serial_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	bool busy;

	atomic_inc(&td.seen);
	if (!bdev_filter_take(flt, bio))
		return BDEV_FILTER_PASS;
	WRITE_ONCE(td.holder, flt);
	scoped_guard(spinlock, &test_lock) {
		busy = test_serial_busy;
		test_serial_busy = true;
		if (busy)
			bio_list_add(&td.held, bio);
	}
	if (!busy)
		test_serial_go(flt, bio);
	return BDEV_FILTER_TAKEN;
}

static const struct bdev_filter_operations test_serial_ops = {
	.name		= "kunit-serial",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_TAKES | BDEV_FILTER_ARMS,
	.attach		= test_filter_attach,
	.submit_bio	= test_serial_submit_bio,
	.let_go		= test_filter_let_go,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static void test_serial(struct kunit *test)
{
	struct bio *first;

	test_serial_busy = false;
	test_attach_ops(test, &test_serial_ops);
	td.keep = true;
	td.many = 2000;
	test_run(1, test_submit_many);
	/* One is below, all others are kept. */
	test_reaches(test, &td.arrived, 1);
	test_reaches(test, &td.seen, td.many);
	test_stays(test, &td.arrived, 1);

	/* Each now fails as soon as it is resubmitted. */
	set_capacity(td.disk, 0);
	td.keep = false;
	first = test_pop(&td.kept);
	bio_endio(first);
	test_wait(test, &td.ended);
	test_reaches(test, &td.done, td.many);
	EXPECT_COUNT(failed, td.many - 1);
	EXPECT_COUNT(arrived, 1);
	EXPECT_COUNT(processed, atomic_read(&td.seen));
	test_expect_flat_stack(test);
}

/* Each that ends has the next one end. */
static void test_falling_end(struct bdev_filter *flt, struct bio *bio,
			     struct bdev_filter_hook *hook)
{
	struct bio *next = test_pop(&td.held);

	atomic_inc(&td.processed);
	if (current_work())
		test_note_stack();
	if (next)
		bdev_filter_endio(flt, next, BLK_STS_NOSPC);
}

static enum bdev_filter_verdict
test_falling_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	atomic_inc(&td.seen);
	if (!bdev_filter_arm(flt, bio, test_falling_end) ||
	    !bdev_filter_take(flt, bio))
		return BDEV_FILTER_PASS;
	test_add(&td.held, bio);
	return BDEV_FILTER_TAKEN;
}

static void test_falling(struct kunit *test)
{
	static struct bdev_filter_operations falling;

	falling = test_serial_ops;
	falling.submit_bio = test_falling_submit_bio;
	test_attach_ops(test, &falling);
	td.many = 2000;
	test_run(1, test_submit_many);
	test_wait(test, &td.ended);
	bdev_filter_endio(td.flt, test_pop(&td.held), BLK_STS_NOSPC);
	test_reaches(test, &td.done, td.many);
	EXPECT_COUNT(failed, td.many);
	EXPECT_COUNT(arrived, 0);
	EXPECT_COUNT(processed, td.many);
	test_expect_flat_stack(test);
}

/* Half of them are taken, and armed when they are resubmitted. */
static enum bdev_filter_verdict
test_mixed_hook_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	bool taken = bio->bi_iter.bi_sector % 2 && bdev_filter_take(flt, bio);

	atomic_inc(&td.seen);
	bdev_filter_arm(flt, bio, test_hook_end);
	if (!taken)
		return BDEV_FILTER_PASS;
	bdev_filter_resubmit(flt, bio);
	return BDEV_FILTER_TAKEN;
}

static void test_hook_stress(struct kunit *test)
{
	static struct bdev_filter_operations mixed;

	mixed = test_hook_ops;
	mixed.flags |= BDEV_FILTER_TAKES;
	mixed.submit_bio = test_mixed_hook_submit_bio;
	test_stress_ops(test, &mixed);
}

static struct kunit_case blk_filter_hook_cases[] = {
	KUNIT_CASE(test_hook),
	KUNIT_CASE(test_detach_waits_for_hook),
	KUNIT_CASE(test_two_hooks),
	KUNIT_CASE(test_chain),
	KUNIT_CASE(test_serial),
	KUNIT_CASE(test_falling),
	KUNIT_CASE_SLOW(test_hook_stress),
	{ }
};

static struct kunit_suite blk_filter_hook_suite = {
	.name		= "blk_filter_hook",
	.init		= test_hook_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_hook_cases,
};

kunit_test_suite(blk_filter_hook_suite);

/* Where the filter sends its bios, the sector after that of the bio. */
static struct bdev_filter_target *test_to;

static struct bdev_filter_target *
test_make_target(struct bdev_filter *flt, struct gendisk *disk, blk_mode_t mode)
{
	struct bdev_filter_target *target;
	struct file *file;

	file = bdev_file_open_by_dev(disk_devt(disk), mode, NULL, NULL);
	if (IS_ERR(file))
		return ERR_CAST(file);
	target = bdev_filter_make_target(flt, file, NULL);
	if (IS_ERR(target))
		bdev_fput(file);
	return target;
}

static int test_try_target(struct bdev_filter *flt, struct gendisk *disk)
{
	struct bdev_filter_target *target =
		test_make_target(flt, disk, BLK_OPEN_READ | BLK_OPEN_WRITE);

	if (IS_ERR(target))
		return PTR_ERR(target);
	bdev_filter_put_target(target);
	return 0;
}

/* Not earlier than the last bio that the filter sends there. */
static void test_put_to(void)
{
	struct bdev_filter_target *target = xchg(&test_to, NULL);

	if (target)
		bdev_filter_put_target(target);
}

static void test_target_release(struct bdev_filter *flt)
{
	test_put_to();
	test_filter_release(flt);
}

static enum bdev_filter_verdict
test_target_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	sector_t sector = bdev_filter_sector(flt, bio) + 1;

	atomic_inc(&td.seen);
	if (!bdev_filter_retarget(flt, bio, test_to, sector))
		return bdev_filter_end(bio, BLK_STS_NOTSUPP);
	return BDEV_FILTER_RETARGET;
}

static const struct bdev_filter_operations test_target_ops = {
	.name		= "kunit-target",
	.owner		= THIS_MODULE,
	.size		= sizeof(struct bdev_filter),
	.flags		= BDEV_FILTER_ARMS,
	.attach		= test_filter_attach,
	.submit_bio	= test_target_submit_bio,
	.detached	= test_filter_detached,
	.release	= test_target_release,
};

static int test_target_init(struct kunit *test)
{
	struct gendisk *second;
	int ret = test_hook_init(test);

	if (ret)
		return ret;
	test_to = NULL;
	second = test_add_disk("blkfilter_kunit2");
	if (IS_ERR(second))
		return PTR_ERR(second);
	td.second = second;
	return 0;
}

static void test_set_target(struct kunit *test, blk_mode_t mode)
{
	struct bdev_filter_target *target;

	target = test_make_target(td.flt, td.second, mode);
	KUNIT_ASSERT_FALSE(test, IS_ERR(target));
	test_to = target;
}

static void test_attach_target(struct kunit *test, blk_mode_t mode)
{
	test_attach_ops(test, &test_target_ops);
	test_set_target(test, mode);
}

static void test_covers(struct kunit *test)
{
	static const struct {
		const char *what;
		blk_features_t from, to;
		unsigned int block_size, dma_alignment;
		int ret;
	} cases[] = {
		{ "the same", 0, 0, 512, 511, 0 },
		{ "looser", BLK_FEAT_WRITE_CACHE, BLK_FEAT_NOWAIT, 512, 3, 0 },
		{ "blocks", 0, 0, 4096, 511, -EOPNOTSUPP },
		{ "memory", 0, 0, 512, 1023, -EOPNOTSUPP },
		{ "cache", 0, BLK_FEAT_WRITE_CACHE, 512, 511, -EOPNOTSUPP },
		{ "stable", 0, BLK_FEAT_STABLE_WRITES, 512, 511, -EOPNOTSUPP },
		{ "nowait", BLK_FEAT_NOWAIT, 0, 512, 511, -EOPNOTSUPP },
	};

	test_attach_ops(test, &test_target_ops);
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		test_set_limits(test, td.disk, cases[i].from, 512, 511);
		test_set_limits(test, td.second, cases[i].to,
				cases[i].block_size, cases[i].dma_alignment);
		KUNIT_EXPECT_EQ_MSG(test, test_try_target(td.flt, td.second),
				    cases[i].ret, "%s", cases[i].what);
	}
}

static void test_circles(struct kunit *test)
{
	struct bio bio;

	test_attach_target(test, BLK_OPEN_READ);
	KUNIT_EXPECT_EQ(test, test_try_target(td.flt, td.disk), -ELOOP);

	td.other = bdev_filter_attach(td.second->part0, &test_target_ops, NULL,
				      NULL);
	if (IS_ERR(td.other))
		td.other = NULL;
	KUNIT_ASSERT_NOT_NULL(test, td.other);
	KUNIT_EXPECT_EQ(test, test_try_target(td.other, td.disk), -ELOOP);
	/* Nor can it use what was checked for another. */
	bio_init(&bio, td.second->part0, NULL, 0, REQ_OP_READ);
	KUNIT_EXPECT_FALSE(test, bdev_filter_retarget(td.other, &bio, test_to,
						      0));
	bio_uninit(&bio);
	/* No target, no circle. */
	test_put_to();
	test_until(test, !atomic_read(&td.flt->core->targets));
	KUNIT_EXPECT_EQ(test, test_try_target(td.other, td.disk), 0);
}

static void test_retarget(struct kunit *test)
{
	test_attach_target(test, BLK_OPEN_READ | BLK_OPEN_WRITE);
	td.keep = true;
	test_submit(0, 3);
	EXPECT_COUNT(arrived, 1);
	KUNIT_EXPECT_EQ(test, td.sectors[0], 4);
	KUNIT_EXPECT_PTR_EQ(test, td.where, td.second->part0);
	/* The bio has the target, too, and with it the device. */
	test_put_to();
	KUNIT_EXPECT_EQ(test, atomic_read(&td.second->part0->bd_openers), 1);
	test_let_go();
	test_expect_status(test, 0, BLK_STS_OK);
	KUNIT_EXPECT_PTR_EQ(test, td.ios[0].bdev, td.disk->part0);
	KUNIT_EXPECT_TRUE(test, td.ios[0].intact);
	test_until(test, !atomic_read(&td.second->part0->bd_openers));
	KUNIT_EXPECT_EQ(test, blk_filter_in_use(td.flt->core), 1);
}

static void test_retarget_process(struct bdev_filter *flt, struct bio *bio)
{
	if (!bdev_filter_retarget_wait(flt, bio, test_to, 5)) {
		bdev_filter_endio(flt, bio, BLK_STS_NOTSUPP);
		return;
	}
	/* From here on it does not stand for the device of the filter. */
	test_submit_owns(flt, bio);
	bdev_filter_resubmit(flt, bio);
}

static void test_retarget_later(struct kunit *test)
{
	static const struct test_own owns[] = {
		{ "read", REQ_OP_READ, 0, 1, 512, -EINVAL },
	};
	static struct bdev_filter_operations later;

	test_set_owns(owns, ARRAY_SIZE(owns));
	later = test_target_ops;
	later.flags |= BDEV_FILTER_TAKES;
	later.submit_bio = test_filter_submit_bio;
	later.process = test_retarget_process;
	td.mode = TEST_DEFER;
	test_attach_ops(test, &later);
	test_set_target(test, BLK_OPEN_READ | BLK_OPEN_WRITE);
	/* The filter there sees it, that here not again. */
	td.other = bdev_filter_attach(td.second->part0, &test_hook_ops, NULL,
				      NULL);
	if (IS_ERR(td.other))
		td.other = NULL;
	KUNIT_ASSERT_NOT_NULL(test, td.other);
	test_write(test, 3, BLK_STS_OK);
	EXPECT_COUNT(seen, 1);
	EXPECT_COUNT(processed, 1);
	EXPECT_COUNT(arrived, 1);
	test_expect_owns(test);
	KUNIT_EXPECT_EQ(test, td.sectors[0], 5);
	KUNIT_EXPECT_PTR_EQ(test, td.where, td.second->part0);
	KUNIT_EXPECT_PTR_EQ(test, td.ios[0].bdev, td.disk->part0);
}

static void test_retarget_read_only(struct kunit *test)
{
	test_attach_target(test, BLK_OPEN_READ);
	test_write(test, 0, BLK_STS_NOTSUPP);
	EXPECT_COUNT(arrived, 0);
	test_read(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 1);
	KUNIT_EXPECT_PTR_EQ(test, td.where, td.second->part0);
}

/* The target was checked, but has changed. */
static void test_retarget_checks(struct kunit *test)
{
	test_attach_target(test, BLK_OPEN_READ | BLK_OPEN_WRITE);
	test_write(test, TEST_CAPACITY - 1, BLK_STS_IOERR);
	test_set_limits(test, td.second, 0, 4096, 511);
	test_write(test, 7, BLK_STS_NOTSUPP);
	test_set_limits(test, td.second, 0, 512, 1023);
	test_write(test, 7, BLK_STS_NOTSUPP);
	KUNIT_EXPECT_PTR_EQ(test, td.ios[0].bdev, td.disk->part0);
	EXPECT_COUNT(arrived, 0);
}

static void test_slow_detached(struct bdev_filter *flt,
			       enum bdev_filter_reason reason)
{
	wait_for_completion(&td.gate);
}

/* A filter may have its target for longer than its device. */
static void test_target_outlives(struct kunit *test)
{
	static struct bdev_filter_operations slow;
	struct gendisk *disk;

	slow = test_target_ops;
	slow.detached = test_slow_detached;
	test_attach_ops(test, &slow);
	test_set_target(test, BLK_OPEN_READ);
	td.other = td.flt;
	td.flt = NULL;
	test_run(0, test_remove);
	test_wait(test, &td.ended);
	disk = td.disk;
	td.disk = NULL;
	put_disk(disk);
	rcu_barrier();

	disk = test_add_disk("blkfilter_kunit");
	KUNIT_ASSERT_FALSE(test, IS_ERR(disk));
	td.disk = disk;
	td.added = true;
	test_attach_ops(test, &test_target_ops);
	KUNIT_EXPECT_EQ(test, test_try_target(td.flt, td.second), 0);
}

static void test_remap(struct kunit *test)
{
	struct bio_vec vec;
	struct bio bio;

	test_attach(test, TEST_PASS);
	bio_init(&bio, td.disk->part0, &vec, 1, REQ_OP_WRITE);
	__bio_add_page(&bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
	KUNIT_EXPECT_TRUE(test, bdev_filter_remap(td.flt, &bio,
						  TEST_CAPACITY - 1));
	KUNIT_EXPECT_EQ(test, bio.bi_iter.bi_sector, TEST_CAPACITY - 1);
	KUNIT_EXPECT_TRUE(test, bdev_filter_remap(td.flt, &bio, 9));
	KUNIT_EXPECT_EQ(test, bio.bi_iter.bi_sector, 9);
	/* Refused, with nothing changed. */
	KUNIT_EXPECT_FALSE(test, bdev_filter_remap(td.flt, &bio, TEST_CAPACITY));
	KUNIT_EXPECT_FALSE(test, bdev_filter_remap(td.flt, &bio, (sector_t)-1));
	test_set_limits(test, td.disk, 0, 4096, 511);
	KUNIT_EXPECT_FALSE(test, bdev_filter_remap(td.flt, &bio, 1));
	KUNIT_EXPECT_EQ(test, bio.bi_iter.bi_sector, 9);
	KUNIT_EXPECT_TRUE(test, bdev_filter_remap(td.flt, &bio, 8));
	bio.bi_iter.bi_size = 0;
	KUNIT_EXPECT_FALSE(test, bdev_filter_remap(td.flt, &bio, 0));
	bio.bi_iter.bi_size = SECTOR_SIZE;
	set_capacity(td.disk, 0);
	KUNIT_EXPECT_FALSE(test, bdev_filter_remap(td.flt, &bio, 0));
	bio_uninit(&bio);
}

static enum bdev_filter_verdict
test_remap_submit_bio(struct bdev_filter *flt, struct bio *bio)
{
	if (!bdev_filter_remap(flt, bio, 9))
		return bdev_filter_end(bio, BLK_STS_NOTSUPP);
	return BDEV_FILTER_PASS;
}

static void test_remapped(struct kunit *test)
{
	static struct bdev_filter_operations remapping;

	remapping = test_ops;
	remapping.flags = 0;
	remapping.submit_bio = test_remap_submit_bio;
	test_attach_ops(test, &remapping);
	test_write(test, 3, BLK_STS_OK);
	KUNIT_EXPECT_EQ(test, td.sectors[0], 9);
}

static struct kunit_case blk_filter_target_cases[] = {
	KUNIT_CASE(test_covers),
	KUNIT_CASE(test_circles),
	KUNIT_CASE(test_retarget),
	KUNIT_CASE(test_retarget_later),
	KUNIT_CASE(test_retarget_read_only),
	KUNIT_CASE(test_retarget_checks),
	KUNIT_CASE(test_target_outlives),
	KUNIT_CASE(test_remap),
	KUNIT_CASE(test_remapped),
	{ }
};

static struct kunit_suite blk_filter_target_suite = {
	.name		= "blk_filter_target",
	.init		= test_target_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_target_cases,
};

kunit_test_suite(blk_filter_target_suite);

MODULE_DESCRIPTION("KUnit tests of block device filters");
MODULE_LICENSE("GPL");
