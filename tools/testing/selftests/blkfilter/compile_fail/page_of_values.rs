// SPDX-License-Identifier: GPL-2.0
//~ E0308: what is read from a disk is bytes, not references
fn read<'a>(bio: &mut NewBio<'a>, values: &'a mut VVec<&'static str>, mut page: BioPage) {
    for mut page in values.page_iter() {
        let _ = bio.add_page(&mut page, 0, 512); //~ bad
        let _ = page; //~ good
    }
}
