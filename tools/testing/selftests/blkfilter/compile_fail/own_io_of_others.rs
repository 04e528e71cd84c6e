// SPDX-License-Identifier: GPL-2.0
//~ E0308: own I/O is done on behalf of a bio of the filter
fn process(
    cx: &Context<'_, Good>,
    other: &OwnedBio<Other>,
    owned: &Owned,
    own: NewBio<'_>,
) -> Result {
    cx.submit_and_wait(other, own) //~ bad
    cx.submit_and_wait(owned, own) //~ good
}
