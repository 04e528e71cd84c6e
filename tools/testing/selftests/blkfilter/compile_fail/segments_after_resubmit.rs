// SPDX-License-Identifier: GPL-2.0
//~ E0505: segments are not there any more after the bio went on
fn finish(bio: Owned) {
    let mut segments = bio.data().map(|data| data.segments());
    let first = segments.as_mut().map(Iterator::next); //~ good
    bio.resubmit(); //~ bad
    let first = segments.as_mut().map(Iterator::next); //~ bad
    bio.resubmit(); //~ good
}
