// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of block device filters: what needs no disk, then, on a disk of the
 * test's own, what happens to bios and when a filter goes.
 */
#include <kunit/test.h>
#include <linux/blk-filter.h>
#include <linux/delay.h>
#include <linux/workqueue.h>

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

static void test_protected(struct kunit *test)
{
	struct bdev_filter_operations filter_ops = ops("kunit");
	struct bdev_filter *flt = kunit_kzalloc(test, sizeof(*flt), GFP_KERNEL);
	struct bio bio = { .bi_opf = REQ_OP_WRITE };

	KUNIT_ASSERT_NOT_NULL(test, flt);
	flt->ops = &filter_ops;
	bio.bi_iter.bi_size = SECTOR_SIZE;
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(flt, &bio));
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(flt, &bio));

	bio.bi_opf = REQ_OP_DISCARD;
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(flt, &bio));
	KUNIT_EXPECT_FALSE(test, bdev_filter_has_data(flt, &bio));

	bio.bi_opf = REQ_OP_WRITE | REQ_INTEGRITY;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(flt, &bio));
	KUNIT_EXPECT_FALSE(test, bdev_filter_has_data(flt, &bio));
	filter_ops.flags = BDEV_FILTER_ZONED | BDEV_FILTER_CRYPTO;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(flt, &bio));
	filter_ops.flags = BDEV_FILTER_INTEGRITY;
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(flt, &bio));

	bio.bi_opf = REQ_OP_ZONE_RESET;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(flt, &bio));
	bio.bi_opf = REQ_OP_ZONE_APPEND;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(flt, &bio));
	filter_ops.flags = BDEV_FILTER_ZONED;
	KUNIT_EXPECT_FALSE(test, bdev_filter_protected(flt, &bio));

#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	bio.bi_opf = REQ_OP_WRITE;
	bio.bi_crypt_context = (struct bio_crypt_ctx *)test;
	KUNIT_EXPECT_TRUE(test, bdev_filter_protected(flt, &bio));
	filter_ops.flags = BDEV_FILTER_CRYPTO;
	KUNIT_EXPECT_TRUE(test, bdev_filter_has_data(flt, &bio));
#endif
}

static void test_no_filter(struct kunit *test)
{
	struct block_device *bdev = kunit_kzalloc(test, sizeof(*bdev),
						  GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, bdev);
	KUNIT_EXPECT_NULL(test, bdev_filter_get(bdev));
}

static struct kunit_case blk_filter_cases[] = {
	KUNIT_CASE(test_bad_operations),
	KUNIT_CASE(test_names_are_unique),
	KUNIT_CASE(test_end_keeps_an_error),
	KUNIT_CASE(test_sector),
	KUNIT_CASE(test_protected),
	KUNIT_CASE(test_no_filter),
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
};

static DEFINE_SPINLOCK(test_lock);

/*
 * A disk, its bios, its filter.  A failing assertion ends a case on the spot, so
 * nothing that others use is on a stack.  Cases run one at a time.
 */
static struct {
	struct gendisk *disk;
	struct bdev_filter *flt;
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

	enum test_mode mode;
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
	atomic_t submitted;
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
	if (td.keep)
		test_add(&td.kept, bio);
	else
		bio_endio_status(bio, td.status);
}

static const struct block_device_operations test_disk_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= test_disk_submit_bio,
};

/* The filter resubmits what it holds, and the disk ends what it kept. */
static void test_let_go(void)
{
	struct bio *bio;

	td.keep = false;
	while ((bio = test_pop(&td.held)))
		bdev_filter_resubmit(td.holder, bio);
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
	wait_for_completion(&td.gate);
	bdev_filter_resubmit(flt, bio);
}

static void test_filter_detached(struct bdev_filter *flt,
				 enum bdev_filter_reason reason)
{
	td.reason = reason;
	complete(&td.detached);
	if (READ_ONCE(td.mode) == TEST_MIXED)
		test_let_go();
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
	.attach		= test_filter_attach,
	.submit_bio	= test_filter_submit_bio,
	.process	= test_filter_process,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static void test_end_io(struct bio *bio)
{
	struct test_io *io = container_of(bio, struct test_io, bio);

	io->status = bio->bi_status;
	bio_uninit(bio);
	complete_all(&io->done);
	test_put();
}

static void test_submit(int nr, sector_t sector)
{
	struct test_io *io = &td.ios[nr];

	bio_init(&io->bio, td.disk->part0, &io->vec, 1, REQ_OP_WRITE);
	__bio_add_page(&io->bio, ZERO_PAGE(0), SECTOR_SIZE, 0);
	io->bio.bi_iter.bi_sector = sector;
	io->bio.bi_end_io = test_end_io;
	init_completion(&io->done);
	atomic_inc(&td.busy);
	submit_bio(&io->bio);
}

static void test_wait(struct kunit *test, struct completion *done)
{
	KUNIT_ASSERT_GT(test, wait_for_completion_timeout(done, TEST_TIMEOUT), 0);
}

static void test_reaches(struct kunit *test, atomic_t *count, int n)
{
	for (int i = 0; atomic_read(count) < n && i < TEST_TIMEOUT; i++)
		schedule_timeout_uninterruptible(1);
	KUNIT_ASSERT_GE(test, atomic_read(count), n);
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

static void test_attach(struct kunit *test, enum test_mode mode)
{
	td.mode = mode;
	KUNIT_ASSERT_EQ(test, test_try_attach(&test_ops), 0);
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

static int test_disk_init(struct kunit *test)
{
	struct queue_limits lim = { };
	struct gendisk *disk;
	int ret;

	/* A case that failed before has left somebody behind. */
	if (atomic_read(&td.busy))
		return -EBUSY;
	memset(&td, 0, sizeof(td));
	init_completion(&td.detached);
	init_completion(&td.gate);
	init_completion(&td.ended);
	td.wq = alloc_workqueue("blk-filter-test", WQ_UNBOUND, 0);
	if (!td.wq)
		return -ENOMEM;
	disk = blk_alloc_disk(&lim, NUMA_NO_NODE);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	td.disk = disk;
	disk->fops = &test_disk_fops;
	disk->flags |= GENHD_FL_NO_PART;
	strscpy(disk->disk_name, "blkfilter_kunit");
	set_capacity(disk, TEST_CAPACITY);
	ret = add_disk(disk);
	td.added = !ret;
	return ret;
}

/* Also after an assertion has failed, and after test_disk_init() has. */
static void test_disk_exit(struct kunit *test)
{
	WRITE_ONCE(td.stop, true);
	WRITE_ONCE(td.mode, TEST_PASS);
	complete_all(&td.gate);
	test_let_go();
	if (td.added)
		del_gendisk(td.disk);
	td.added = false;
	wait_var_event_timeout(&td.busy, !atomic_read(&td.busy), TEST_TIMEOUT);
	KUNIT_ASSERT_EQ(test, atomic_read(&td.busy), 0);

	if (td.flt)
		bdev_filter_detach(td.flt);
	if (td.disk)
		put_disk(td.disk);
	if (td.wq)
		destroy_workqueue(td.wq);
	memset(&td, 0, sizeof(td));
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
	/* In ->submit_bio(), so the worker does it. */
	test_attach(test, TEST_RESUBMIT);
	test_write(test, 0, BLK_STS_OK);
	EXPECT_COUNT(arrived, 1);
	/* Elsewhere, so at once. */
	td.mode = TEST_HOLD;
	test_submit(0, 0);
	EXPECT_COUNT(arrived, 1);
	test_let_go();
	EXPECT_COUNT(arrived, 2);
	test_expect_status(test, 0, BLK_STS_OK);
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
	struct bdev_filter *flt;

	test_defer(test);
	flt = td.flt;
	test_run(0, test_detach);
	for (int i = 0; !READ_ONCE(flt->detaching) && i < TEST_TIMEOUT; i++)
		schedule_timeout_uninterruptible(1);
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
	test_submit(0, 0);
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
	test_expect_status(test, 0, BLK_STS_OK);
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

static void test_stress(struct kunit *test)
{
	complete_all(&td.gate);
	for (int nr = 1; nr <= TEST_SUBMITTERS; nr++)
		test_run(nr, test_keep_submitting);
	for (int i = 0; i < TEST_ROUNDS; i++) {
		int seen = atomic_read(&td.seen);

		test_attach(test, TEST_MIXED);
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

static struct kunit_case blk_filter_disk_cases[] = {
	KUNIT_CASE(test_pass),
	KUNIT_CASE(test_second_filter),
	KUNIT_CASE(test_end),
	KUNIT_CASE(test_resubmit),
	KUNIT_CASE(test_process),
	KUNIT_CASE(test_detach_while_deferred),
	KUNIT_CASE(test_detach_waits),
	KUNIT_CASE(test_detach_during_submit),
	KUNIT_CASE(test_removal),
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

kunit_test_suites(&blk_filter_suite, &blk_filter_disk_suite);

/* What a hook saw, and what the submitter shall see. */
static blk_status_t test_hook_saw, test_hook_says;

static void test_hook_end(struct bdev_filter *flt, struct bio *bio,
			  struct bdev_filter_hook *hook)
{
	atomic_inc(&td.processed);
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
	.attach		= test_filter_attach,
	.submit_bio	= test_hook_submit_bio,
	.detached	= test_filter_detached,
	.release	= test_filter_release,
};

static void test_hook(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, test_try_attach(&test_hook_ops), 0);
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
	test_hook_says = BLK_STS_OK;
	KUNIT_ASSERT_EQ(test, test_try_attach(&test_hook_ops), 0);
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

static struct kunit_case blk_filter_hook_cases[] = {
	KUNIT_CASE(test_hook),
	KUNIT_CASE(test_detach_waits_for_hook),
	{ }
};

static struct kunit_suite blk_filter_hook_suite = {
	.name		= "blk_filter_hook",
	.init		= test_disk_init,
	.exit		= test_disk_exit,
	.test_cases	= blk_filter_hook_cases,
};

kunit_test_suite(blk_filter_hook_suite);

MODULE_DESCRIPTION("KUnit tests of block device filters");
MODULE_LICENSE("GPL");
