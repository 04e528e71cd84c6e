// SPDX-License-Identifier: GPL-2.0

#include <linux/bio.h>
#include <linux/highmem.h>

__rust_helper struct bio_vec rust_helper_bio_iter_iovec(struct bio *bio,
							struct bvec_iter iter)
{
	return bio_iter_iovec(bio, iter);
}

__rust_helper void rust_helper_bio_advance_iter(const struct bio *bio,
						struct bvec_iter *iter,
						unsigned int bytes)
{
	bio_advance_iter(bio, iter, bytes);
}

__rust_helper void rust_helper_memcpy_from_page(char *to, struct page *page,
						size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

__rust_helper void rust_helper_memcpy_to_page(struct page *page, size_t offset,
					      const char *from, size_t len)
{
	memcpy_to_page(page, offset, from, len);
}

__rust_helper void rust_helper_memset_page(struct page *page, size_t offset,
					   int val, size_t len)
{
	memset_page(page, offset, val, len);
}
