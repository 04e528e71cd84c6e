/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM bdev_filter

#if !defined(_TRACE_BDEV_FILTER_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_BDEV_FILTER_H

#include <linux/blk-filter.h>
#include <linux/blktrace_api.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(bdev_filter,

	TP_PROTO(struct bdev_filter *flt),

	TP_ARGS(flt),

	TP_STRUCT__entry(
		__string(dev,		flt->dev_name)
		__string(name,		flt->name)
	),

	TP_fast_assign(
		__assign_str(dev);
		__assign_str(name);
	),

	TP_printk("%s %s", __get_str(dev), __get_str(name))
);

/**
 * bdev_filter_attach - a filter was attached to a device
 * @flt: the filter
 */
DEFINE_EVENT(bdev_filter, bdev_filter_attach,

	TP_PROTO(struct bdev_filter *flt),

	TP_ARGS(flt)
);

/**
 * bdev_filter_detach - a filter left its device, by detach or removal
 * @flt: the filter
 *
 * No new bio reaches it.  It may own bios still.
 */
DEFINE_EVENT(bdev_filter, bdev_filter_detach,

	TP_PROTO(struct bdev_filter *flt),

	TP_ARGS(flt)
);

DECLARE_EVENT_CLASS(bdev_filter_bio,

	TP_PROTO(struct bdev_filter *flt, struct bio *bio),

	TP_ARGS(flt, bio),

	TP_STRUCT__entry(
		__string(dev,			flt->dev_name)
		__string(name,			flt->name)
		__field(sector_t,		sector)
		__field(unsigned int,		nr_sector)
		__field(int,			error)
		__array(char,			rwbs,	RWBS_LEN)
	),

	TP_fast_assign(
		__assign_str(dev);
		__assign_str(name);
		__entry->sector		= bdev_filter_sector(flt, bio);
		__entry->nr_sector	= bio_sectors(bio);
		__entry->error		= blk_status_to_errno(bio->bi_status);
		blk_fill_rwbs(__entry->rwbs, bio->bi_opf);
	),

	TP_printk("%s %s %s %llu + %u [%d]", __get_str(dev), __get_str(name),
		  __entry->rwbs, (unsigned long long)__entry->sector,
		  __entry->nr_sector, __entry->error)
);

/**
 * bdev_filter_take - a filter took ownership of a bio
 * @flt: the filter
 * @bio: the bio
 */
DEFINE_EVENT(bdev_filter_bio, bdev_filter_take,

	TP_PROTO(struct bdev_filter *flt, struct bio *bio),

	TP_ARGS(flt, bio)
);

/**
 * bdev_filter_defer - a filter left a bio that it owns to its worker
 * @flt: the filter
 * @bio: the bio
 */
DEFINE_EVENT(bdev_filter_bio, bdev_filter_defer,

	TP_PROTO(struct bdev_filter *flt, struct bio *bio),

	TP_ARGS(flt, bio)
);

/**
 * bdev_filter_resubmit - a bio that a filter owned goes on to the device
 * @flt: the filter
 * @bio: the bio
 */
DEFINE_EVENT(bdev_filter_bio, bdev_filter_resubmit,

	TP_PROTO(struct bdev_filter *flt, struct bio *bio),

	TP_ARGS(flt, bio)
);

/**
 * bdev_filter_finish - a filter ended a bio
 * @flt: the filter
 * @bio: the bio
 */
DEFINE_EVENT(bdev_filter_bio, bdev_filter_finish,

	TP_PROTO(struct bdev_filter *flt, struct bio *bio),

	TP_ARGS(flt, bio)
);

#endif /* _TRACE_BDEV_FILTER_H */

#include <trace/define_trace.h>
