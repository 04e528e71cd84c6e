// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of block device filters: what needs no disk.
 */
#include <kunit/test.h>
#include <linux/blk-filter.h>

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

kunit_test_suite(blk_filter_suite);

MODULE_DESCRIPTION("KUnit tests of block device filters");
MODULE_LICENSE("GPL");
