"""A folder of photographs: keypoints once each, pairs, filtered matches."""
