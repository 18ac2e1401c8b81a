"""OpenCV: the filter in the places where its own functions stand, called as they are."""

from n3match.plugins.opencv.essential import find_essential_mat
from n3match.plugins.opencv.information import match_information
from n3match.plugins.opencv.matcher import N3Matcher
from n3match.plugins.opencv.matches import filter_matches
from n3match.plugins.opencv.pose import recover_pose

__all__ = ["N3Matcher", "filter_matches", "find_essential_mat", "match_information", "recover_pose"]
