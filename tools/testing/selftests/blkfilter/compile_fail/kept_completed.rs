// SPDX-License-Identifier: GPL-2.0
//~ E0521: a bio that has completed can't be kept
fn end_io(bio: CompletedBio<'_>) {
    needs_static(bio); //~ bad
    let _ = bio.status(); //~ good
}
