// SPDX-License-Identifier: GPL-2.0
//~ E0521: a view of a bio can't be kept
fn submit_bio<'cb>(bio: &'cb Bio, place: &SpinLock<Option<&'static Bio>>) {
    *place.lock() = Some(bio); //~ bad
    let _ = bio.op(); //~ good
}
